"""What leads to a device: command lines, messages, and what is refused before anything is started."""

from __future__ import annotations

import ast
import io
import os
import zipfile

import pytest
from loopback import device_python

from tfprune.export import Remote, benchmark, verify
from tfprune.export.device import remote
from tfprune.export.device.remote import _error_message, _payload, _transport


@pytest.mark.parametrize("address", ["", " ", "-oProxyCommand=touch x", "adb:", "adb:-s", "a b", "pi@host\n"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="Expected an address, such as 'pi@raspberrypi' or 'adb:SERIAL'"):
        Remote(address)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Remote(3), "Expected an address"),
        (lambda: Remote("pi@host", python=None), "Expected `python` to be the name or path"),
        (lambda: Remote("pi@host", options="-p 22"), "Expected `options` to be a list"),
        (lambda: verify("x.tflite", on="pi@host"), "Expected `on` to be a device.*Remote.*Received: on='pi@host'"),
        (lambda: benchmark("x.tflite", on="pi@host"), "Expected `on` to be a device"),
    ],
)
def test_wrong_types_are_refused(make, text):
    with pytest.raises(TypeError, match=text):
        make()


def test_nothing_is_asked_and_the_shell_reads_words_as_they_are(monkeypatch, tmp_path):
    (tmp_path / "ssh").write_text("")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    line = _transport("pi@host", ["-p", "2222"]).command(["my python", "-c", "print('a b')"])
    assert line[0] == str(tmp_path / "ssh") and "BatchMode=yes" in line
    assert line[-5:-1] == ["2222", "-T", "--", "pi@host"]
    assert line[-1] == """exec 'my python' -c 'print('"'"'a b'"'"')'"""


@pytest.mark.parametrize(("address", "needed"), [("pi@host", "openssh-client"), ("adb:0123", "platform tools")])
def test_a_tool_that_is_missing_here_is_named(monkeypatch, tmp_path, address, needed):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=f"on this machine. Received: none. Install .*{needed}"):
        Remote(address).run_job("x", tmp_path, timeout=1)


@pytest.fixture
def adb(tmp_path, monkeypatch):
    """Put an adb first that runs its command here, for the phone 0123, and knows no other."""
    script = tmp_path / "adb"
    script.write_text(
        '#!/bin/sh\n[ "$1 $3 $4" = "-s shell -T" ] || exit 9\n'
        "[ $2 = 0123 ] || { echo \"adb: device '$2' not found\" >&2; exit 1; }\n"
        'exec sh -c "$5"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_the_archive_has_every_module_that_its_modules_import():
    with zipfile.ZipFile(io.BytesIO(_payload().content)) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    imported = {
        node.module.replace(".", "/")
        for source in sources.values()
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfprune.")
    }
    assert "tfprune/base/spec" in imported
    assert not imported - {name.removesuffix(".py").removesuffix("/__init__") for name in sources}


def test_a_phone_is_reached_through_adb(adb, cases, tmp_path):
    python, case = device_python(tmp_path / "phone"), cases["dense"]
    with Remote("adb:0123", python=str(python)) as phone:
        assert verify(case.path, samples=case.inputs, expected=case.expected, on=phone).passed
    assert not list((tmp_path / "phone/tmp").iterdir())
    with pytest.raises(ValueError, match="a phone that adb does not see"):
        Remote("adb:4567").run_job("x", tmp_path, timeout=1)
    with pytest.raises(ValueError, match="no Python by the name 'python9'"):
        Remote("adb:0123", python="python9").run_job("x", tmp_path, timeout=1)


def test_messages_arrive_as_they_were_sent():
    stream = io.BytesIO()
    contents = {"model.tflite": bytes(range(256)) * 5000, "empty": b""}
    remote._send(stream, remote._Message({"module": "x", "timeout": 1.5}, contents))
    remote._send(stream, remote._Message({"second": True}, {}))
    whole = stream.getvalue()
    stream.seek(0)
    assert remote._receive(stream, most=1_280_000) == ({"module": "x", "timeout": 1.5}, contents)
    assert remote._receive(stream) == ({"second": True}, {})
    assert remote._receive(stream) is None
    for cut in (3, 20, 1000, len(whole) - 30):
        first = remote._receive(io.BytesIO(whole[:cut]), most=1_280_000)
        assert first is None or first.header == {"module": "x", "timeout": 1.5}
    with pytest.raises(ValueError, match="a header of"):
        remote._receive(io.BytesIO(b"\xff" * 20))
    with pytest.raises(ValueError, match="Expected JSON. Received: b'oops'"):
        remote._receive(io.BytesIO((4).to_bytes(8, "big") + b"oops"))


def test_what_a_shell_prints_first_is_skipped(monkeypatch):
    stream = io.BytesIO(b"Last login: today\n" + remote._MARK + b"rest")
    assert remote._skip_to_mark(stream) and stream.read() == b"rest"
    assert not remote._skip_to_mark(io.BytesIO(b"no mark"))
    monkeypatch.setattr(remote, "_LARGEST_BANNER", 50)
    with pytest.raises(ValueError, match="Received: 50 bytes of other text first. Let the shell there print less"):
        remote._skip_to_mark(io.BytesIO(b"x" * 100))


@pytest.mark.parametrize(
    ("printed", "code", "text"),
    [
        ("ssh: connect to host pi port 22: No route to host", 255, "a host that does not answer"),
        ("Python 3.9 is too old, the device half needs 3.10", 1, "an old Python"),
        ("OSError: [Errno 28] No space left on device", 1, "without space"),
        ("error: device unauthorized.", 1, "does not trust this machine"),
        ("Traceback\nSomething else.", 1, "exit code 1 from 'python3' there. It printed: Something else."),
        ("", None, "nothing within the time"),
    ],
)
def test_complaints_say_what_it_means(printed, code, text):
    message = _error_message(printed, address="pi@host", python="python3", code=code)
    assert (
        text in message
        and message.startswith("Expected a device that answers at 'pi@host'.")
        and message.endswith(".")
    )
