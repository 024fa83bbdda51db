"""What all tests need of the process that runs them."""

import signal


def pytest_configure() -> None:
    # A shell has what it starts in the background ignore interrupts, and so would all that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
