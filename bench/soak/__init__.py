"""`make soak`: a gateway under load for as long as one likes, while everything around it is killed and started anew."""
