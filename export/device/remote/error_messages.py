"""What went wrong with a device, in words that say what to do, from what ssh, adb and the device's shell print."""

from __future__ import annotations

import re

from tfprune.report import shortened

# What is printed -> what it means, and what to do; {address} and {python} are filled in.
CONNECTION_ERRORS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "a host whose key is another one than before. Another machine may answer in its place; if it was set up "
        "anew, remove the old key with ssh-keygen -R, and connect once with ssh",
    ),
    (
        "Host key verification failed",
        "a host whose key is not known here. Connect once with ssh {address}, and accept its key",
    ),
    (
        "Permission denied|Too many authentication failures",
        "a host that takes none of the keys here, and would ask for a password. Copy a key there once, with "
        "ssh-copy-id {address}",
    ),
    (
        "Could not resolve hostname|Name or service not known",
        "a name that no network knows. Check the address, or put it into ~/.ssh/config",
    ),
    ("Connection refused", "a host on which no ssh server answers. Start one; raspi-config has a switch for it"),
    ("timed out|No route to host|unreachable", "a host that does not answer. Check that it is on, and the network"),
    (
        "device '.*' not found|no devices|device offline",
        "a phone that adb does not see. Plug it in, allow debugging on its screen, and look at adb devices",
    ),
    ("device unauthorized", "a phone that does not trust this machine. Allow debugging on its screen"),
)
STARTUP_ERRORS = (
    ("No module named 'numpy'", "a Python without NumPy. Run there: {python} -m pip install numpy ai-edge-litert"),
    ("the device half needs", "an old Python. Name one of 3.10 or later, as in python='python3.11'"),
    ("No space left on device", "a device without space for temporary files. Free some"),
    ("arrived damaged", "a connection that changes what is sent. Try again, and another network"),
)
NO_PYTHON = (
    "no Python by the name {python!r}. Install one there, with numpy and ai-edge-litert, or say where it is, as in "
    "python='env/bin/python'"
)
SHELL_EXIT_CODES = (126, 127)  # exit codes: what was found cannot be run, and nothing was found
SSH_EXIT_CODE = 255
LONGEST_LINE = 500  # characters


def error_message(printed: str, *, address: str, python: str, code: int | None) -> str:
    """Return an error text for a device that did not start.

    Args:
        printed: What was printed on the way.
        address: The device.
        python: The Python that was called there.
        code: How the command ended; None if it had to be ended here.
    """
    tables = (
        CONNECTION_ERRORS + STARTUP_ERRORS if code in (None, SSH_EXIT_CODE) else STARTUP_ERRORS + CONNECTION_ERRORS
    )
    meaning = next((meaning for pattern, meaning in tables if re.search(pattern, printed)), None)
    if code in SHELL_EXIT_CODES:
        meaning = NO_PYTHON
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    quoted = f" It printed: {shortened(lines[-1], LONGEST_LINE).rstrip('.')}." if lines else ""
    ending = "nothing within the time for a connection" if code is None else f"exit code {code} from {python!r} there"
    reason = (meaning or ending).format(address=address, python=python)
    return f"Expected a device that answers at {address!r}. Received: {reason}.{quoted}"
