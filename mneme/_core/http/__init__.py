"""What a cache may do with HTTP, and the one gateway that ASGI, WSGI and transports share."""
