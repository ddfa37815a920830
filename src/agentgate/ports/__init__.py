"""What the pipeline needs from the outside, as Protocols. Each adapter proves them with tests/contracts/.

Every method that waits is cancellable and bounded by the adapter's own deadline. What can be told by a
value is told by a value; the errors that are raised are named here.
"""
