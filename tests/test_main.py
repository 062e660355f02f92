"""`python -m minillama`: a story on standard output as it is written, an error in one line on standard error."""

import io
import os
import subprocess
import sys

import pytest
from tiny import ROOT, tiny_llama, tokenizer

import minillama as ml
import minillama.__main__ as command

assert tokenizer                                       # a fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("checkpoint")
    ml.save(tiny_llama(seed=4), tokenizer, folder)
    return folder


def run(*arguments, **settings):
    """The finished process of a command line, started far away from the repository."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | settings.pop("env", {})
    return subprocess.run([sys.executable, "-m", "minillama", *map(str, arguments)], capture_output=True, encoding="utf-8", timeout=120,
                          env=environment, **settings)


def test_a_story_is_the_prompt_and_its_continuation(folder, tokenizer, tmp_path):
    done = run("the fox", "--checkpoint", folder, "--seed", 6, "--max-new-tokens", 20, "--temperature", 0.9, "--top-p", 0.8, cwd=tmp_path)
    expected = ml.generate(*ml.load(folder), "the fox", max_new_tokens=20, temperature=0.9, top_p=0.8, seed=6)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected + "\n" and len(expected) > len("the fox") + 10


def test_the_checkpoint_that_ships_is_found_from_anywhere(tmp_path):
    done = run("--seed", 1, "--max-new-tokens", 30, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Once upon a time") and len(done.stdout) > 40


def in_process(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["minillama", *map(str, arguments)])
    command.main()


def test_the_seed_decides_the_story(monkeypatch, capsys, folder):
    texts = []
    for seed in (1, 1, 2):
        in_process(monkeypatch, "the", "--checkpoint", folder, "--seed", seed, "--max-new-tokens", 15)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_the_options_reach_the_model(monkeypatch, folder):
    seen = {}

    def stream(llama, tokenizer, prompt, **settings):
        seen.update(settings, prompt=prompt)
        return iter([])

    monkeypatch.setattr(command, "stream", stream)
    in_process(monkeypatch, "a b", "--checkpoint", folder, "--temperature", 0.25, "--top-p", 0.5, "--seed", 9, "--max-new-tokens", 3)
    assert seen == {"prompt": "a b", "temperature": 0.25, "top_p": 0.5, "seed": 9, "max_new_tokens": 3}
    in_process(monkeypatch, "--checkpoint", folder)
    assert seen == {"prompt": "Once upon a time", "temperature": 0.8, "top_p": 1.0, "seed": None, "max_new_tokens": 400}


def test_each_piece_is_on_the_screen_before_the_next_is_made(monkeypatch, folder):
    events = []

    class Screen(io.StringIO):
        def write(self, text):
            events.append(text)

        def flush(self):
            events.append("flush")

    def stream(*_, **__):
        for piece in (" upon", " a", " time"):
            events.append(("made", piece))
            yield piece

    monkeypatch.setattr(command, "stream", stream)
    monkeypatch.setattr(sys, "stdout", Screen())
    in_process(monkeypatch, "Once", "--checkpoint", folder)
    events = [event for event in events if event != ""]
    assert events[:9] == [("made", " upon"), "Once upon", "flush", ("made", " a"), " a", "flush", ("made", " time"), " time", "flush"]
    assert [event for event in events[9:] if event != "flush"] == ["\n"]


def test_the_story_comes_piece_by_piece_through_a_pipe(folder):
    """Each piece is read before the program is told to make the next: without streaming, this would wait for ever."""
    program = ("import sys, minillama.__main__ as command\n"
               "def stream(*_, **__):\n"
               "    for piece in 'abc':\n"
               "        yield piece\n"
               "        sys.stdin.readline()\n"
               "command.stream = stream\n"
               f"sys.argv = ['minillama', '>', '--checkpoint', {str(folder)!r}]\n"
               "command.main()\n")
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    for expected in (b">a", b"b", b"c"):
        assert process.stdout.read(len(expected)) == expected
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert process.stdout.read().strip() == b"" and process.wait(60) == 0
    process.stdin.close()
    process.stdout.close()


# ------------------------------------------------------------------ errors

@pytest.mark.parametrize("arguments, words", [
    (["--checkpoint", "nowhere"], "minillama: nowhere: no such folder; a checkpoint is a folder with"),
    (["--temperature", "-1"], "minillama: temperature is -1.0; it must be 0 (greedy) or more"),
    (["--top-p", "1.5"], "minillama: top_p is 1.5; it must be above 0 and at most 1"),
    (["--max-new-tokens", "-3"], "minillama: max_new_tokens is -3; it must be 0 or more"),
    (["--seed", "-1"], "minillama: "),
    (["the fox " * 50], "minillama: the prompt is "),
    (["half of a pair \ud83e"], "minillama: "),
])
def test_an_error_is_one_line_and_no_story(monkeypatch, capsys, folder, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        in_process(monkeypatch, *([] if "--checkpoint" in arguments else ["--checkpoint", folder]), *arguments)
    message = stop.value.code                          # which Python prints on standard error before it leaves with 1
    assert isinstance(message, str) and message.startswith(words) and "\n" not in message
    assert capsys.readouterr().out == ""


def test_an_error_leaves_with_code_1_and_no_traceback(folder, tmp_path):
    for arguments in (["--checkpoint", tmp_path / "nowhere"], ["--checkpoint", folder, "--top-p", "0"]):
        done = run(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("minillama: ") and "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_one_line_too(tmp_path, folder):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    done = run("--checkpoint", tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "git lfs pull" in done.stderr


def test_a_word_in_place_of_a_number_is_refused_with_the_usage(folder):
    done = run("--checkpoint", folder, "--temperature", "warm")
    assert done.returncode == 2 and "usage: python -m minillama" in done.stderr and "Traceback" not in done.stderr


def test_help_names_every_option():
    done = run("--help")
    assert done.returncode == 0
    for option in ("--checkpoint", "--temperature", "--top-p", "--seed", "--max-new-tokens", "prompt"):
        assert option in done.stdout


def test_an_interruption_leaves_quietly(monkeypatch, folder):
    def stream(*_, **__):
        yield "a"
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "stream", stream)
    with pytest.raises(SystemExit) as stop:
        in_process(monkeypatch, "x", "--checkpoint", folder)
    assert stop.value.code == 130


def test_a_reader_that_has_seen_enough_causes_no_traceback(folder):
    """As in `python -m minillama | head -c 20`."""
    process = subprocess.Popen([sys.executable, "-m", "minillama", "the fox", "--checkpoint", str(folder), "--seed", "1", "--temperature", "1"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    process.stdout.close()                             # before a word is written
    errors = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert errors == b"" or sys.platform == "win32" and b"Traceback" not in errors


def test_a_terminal_that_lacks_a_character_shows_another(folder):
    done = run("the 🦙", "--checkpoint", folder, "--max-new-tokens", 5, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0 and done.stdout.startswith("the ") and done.stderr == ""
