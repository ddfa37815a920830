"""A self-hosted containment gateway for AI agents."""

__version__ = "0.3.0"
