"""gRPC on asyncio: unary calls and server streams over HTTP/2 without encryption, which is what workers need.

A request crosses as few threads as possible: none but the event loop's. Frames and calls live here; what a call means
lives with those who register or make it. Why this is not the gRPC library's: decision 10.

1. A peer's mistake ends its connection, never more; its flood ends where a limit is named.
2. Large messages are received into the memory that they stay in, and sent from the memory that they lie in.
3. What was sent in vain because the connection went away raises UNAVAILABLE; whether to try again is the caller's.
"""
