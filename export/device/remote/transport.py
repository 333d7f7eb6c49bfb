"""How a command line reaches a device: through the ssh of this system, or through adb."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Nothing is asked, because nobody may be there to answer; a connection that is lost is noticed in 15 seconds.
BATCH = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
ADB = "adb:"
MISSING = {
    "ssh": "the package openssh-client, or the optional feature OpenSSH client of Windows",
    "adb": "Android's platform tools, and a phone that allows USB debugging",
}


@dataclass(frozen=True)
class Transport:
    """The command that starts another one on a device, whose input and output are ours.

    Attributes:
        tool: "ssh" or "adb".
        address: Whom it calls, for messages.
        arguments: What goes before the command.
    """

    tool: str
    address: str
    arguments: tuple[str, ...]

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the whole command line; the shell of the device reads the words as they are.

        Raises:
            ValueError: If the tool is not installed here.
        """
        program = shutil.which(self.tool)
        if program is None:
            raise ValueError(f"Expected {self.tool} on this machine. Received: none. Install {MISSING[self.tool]}.")
        return [program, *self.arguments, f"exec {shlex.join(words)}"]


def transport(address: Any, options: Sequence[str]) -> Transport:
    """Return the way to an address.

    Args:
        address: As ssh takes it, `user@host` or `ssh://user@host:port`; or `adb:` with the serial number of a phone.
        options: Further arguments of ssh.

    Raises:
        TypeError: If the address is not a string, or the options are not strings.
        ValueError: If the address is empty, or would be an option.
    """
    if not isinstance(address, str):
        raise TypeError(f"Expected an address, such as 'pi@raspberrypi'. Received: {address!r}.")
    if isinstance(options, str) or not all(isinstance(option, str) for option in options):
        raise TypeError(f"Expected `options` to be a list of arguments of ssh. Received: options={options!r}.")
    serial = address.removeprefix(ADB)
    if not serial.strip() or serial.startswith("-") or any(ord(letter) < 33 for letter in address):
        raise ValueError(f"Expected an address, such as 'pi@raspberrypi' or 'adb:SERIAL'. Received: {address!r}.")
    if address.startswith(ADB):
        return Transport("adb", address, ("-s", serial, "shell", "-T"))
    batch = [word for setting in BATCH for word in ("-o", setting)]
    return Transport("ssh", address, (*batch, *options, "-T", "--", address))
