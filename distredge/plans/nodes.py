"""What nodes are called. It imports nothing: providers know the names, and no plans."""

from __future__ import annotations

NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What a provider may be called."""

REQUESTER = "requester"
"""The name of the service requester, which no provider may bear."""
