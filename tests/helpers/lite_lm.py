"""Text of LiteRT-LM's engine, in a process of its own: its log and its aborts stay there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LENGTH = 16


def engine_text(path: Path, prompt: str, *, count: int, is_turn: bool = False) -> str:
    """Return what the engine writes greedily after a prompt, or answers to a turn of a conversation."""
    settings = json.dumps({"path": str(path), "prompt": prompt, "count": count, "is_turn": is_turn})
    program = [sys.executable, __file__, settings]
    completed = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert completed.returncode == 0, completed.stderr[-2000:]
    return json.loads(completed.stdout.splitlines()[-1])


def main() -> None:
    import litert_lm

    settings = json.loads(sys.argv[1])
    greedy = litert_lm.SamplerConfig(top_k=1, temperature=1.0, seed=0)
    cpu = litert_lm.Backend.CPU(thread_count=1)
    with tempfile.TemporaryDirectory() as folder:
        engine = litert_lm.Engine(settings["path"], backend=cpu, max_num_tokens=LENGTH, cache_dir=folder)
        if settings["is_turn"]:
            talk = engine.create_conversation(sampler_config=greedy, max_output_tokens=settings["count"])
            text = "".join(part["text"] for part in talk.send_message(settings["prompt"])["content"])
        else:
            session = engine.create_session(
                apply_prompt_template=False, sampler_config=greedy, max_output_tokens=settings["count"]
            )
            session.run_prefill([settings["prompt"]])
            text = session.run_decode().texts[0]
    print(json.dumps(text))


if __name__ == "__main__":
    main()
