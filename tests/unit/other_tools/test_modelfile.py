"""The parser of Modelfiles, and the conversion of Ollama's parameters."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.errors import BadInputError
from llm_hf_models.other_tools.modelfile import INSTRUCTIONS, Instruction, is_modelfile, parse_modelfile, read_modelfile
from llm_hf_models.other_tools.ollama_options import convert_parameters

EXAMPLE = '''# a comment
from llama3.2

\tPARAMETER   temperature 1
Parameter stop "<|im_end|>"
SYSTEM """You are Mario,
  "a plumber".
"""
TEMPLATE """{{ .Prompt }}"""
MESSAGE user Is Toronto in Canada?
LICENSE "Two
lines"
# FROM other
'''


def test_every_form_of_the_grammar_is_parsed() -> None:
    found = parse_modelfile(EXAMPLE)
    assert [(one.name, one.key, one.value, one.line) for one in found] == [
        ("from", "", "llama3.2", 2),
        ("parameter", "temperature", "1", 4),
        ("parameter", "stop", "<|im_end|>", 5),
        ("system", "", 'You are Mario,\n  "a plumber".\n', 6),
        ("template", "", "{{ .Prompt }}", 9),
        ("message", "user", "Is Toronto in Canada?", 10),
        ("license", "", "Two\nlines", 11),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("FROM a\n", "a"),
        ("FROM a", "a"),
        ("FROM a\r\nSYSTEM b\r\n", "a"),
        ('FROM "a b"', "a b"),
        ("FROM a # no comment", "a # no comment"),
        ("FROM a \t ", "a"),
        ('FROM """a"""', "a"),
        ('FROM a"b', 'a"b'),
        ("FROM \x07a\u200b", "a"),
        ("FROM\ta", "a"),
    ],
)
def test_value_ends_with_its_line_or_quotes(text: str, value: str) -> None:
    assert parse_modelfile(text)[0].value == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The Modelfile has no FROM line"),
        ("# only a comment", "The Modelfile has no FROM line"),
        ("SYSTEM hi", "The Modelfile has no FROM line"),
        ("FROM a\nRUN apt install", "Line 2 of the Modelfile: 'RUN apt install' starts with no instruction"),
        ("FROM", "Line 1 of the Modelfile: FROM has no value"),
        ("FROM a\nPARAMETER temperature", "Line 2 of the Modelfile: PARAMETER has no value"),
        ("FROM a\nMESSAGE robot hi", "Line 2 of the Modelfile: 'robot' is not a role"),
        ('FROM a\nSYSTEM """never closed\n', "Line 2 of the Modelfile: the quotes are never closed"),
        ('FROM a\nSYSTEM "', "Line 2 of the Modelfile: the quotes are never closed"),
        ("<html>", "Line 1 of the Modelfile: '<html>' starts with no instruction"),
    ],
)
def test_error_names_the_line(text: str, message: str) -> None:
    with pytest.raises(BadInputError) as refused:
        parse_modelfile(text)
    assert refused.value.message == message


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_modelfile(text)
    except BadInputError:
        return
    assert any(one.name == "from" for one in found)
    assert all(one.name in INSTRUCTIONS for one in found)


@given(st.binary())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "Modelfile")
        path.write_bytes(content)
        with suppress(BadInputError):
            read_modelfile(path)


_LINES = st.text(st.characters(exclude_characters='"\r\n', exclude_categories=["C", "Z"]), min_size=1)


@given(st.lists(st.tuples(st.sampled_from(["system", "license", "template"]), st.lists(_LINES, min_size=1))))
def test_written_instructions_are_read_back(instructions: list[tuple[str, list[str]]]) -> None:
    texts = [(name, "\n".join(lines)) for name, lines in instructions]
    written = "FROM a\n" + "".join(f'{name.upper()} """{text}"""\n' for name, text in texts)
    found = parse_modelfile(written)[1:]
    assert [(one.name, one.value) for one in found] == texts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "Modelfile"
    path.write_text("FROM größe\n", encoding)
    assert read_modelfile(path) == (Instruction("from", "größe", line=1),)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("Modelfile", b"", True),
        ("mario.modelfile", b"x", True),
        ("mario", b"# Mario\n\nfrom x\n", True),
        ("mario", b"FROM\tx", True),
        ("mario", b"FROMAGE x", False),
        ("mario", b"from", False),
        ("tiny.gguf", b"GGUF\x03\0\0\0", False),
        ("empty", b"", False),
    ],
)
def test_modelfile_is_recognised_by_name_or_first_word(
    tmp_path: Path, name: str, content: bytes, expected: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_modelfile(tmp_path / name) is expected
    assert not is_modelfile(tmp_path)
    assert not is_modelfile(tmp_path / "missing")


@pytest.mark.parametrize(
    ("parameters", "options", "notes"),
    [
        (
            {"temperature": "0.5", "num_ctx": "4096", "num_predict": "42", "seed": "7", "top_k": "20"},
            {"temperature": 0.5, "context": 4096, "max_tokens": 42, "seed": 7, "top_k": 20},
            [],
        ),
        ({"num_predict": -1, "num_gpu": -1, "num_thread": 0}, {}, []),
        ({"stop": ["a"], "min_p": 0.1}, {"stop": "a", "min_p": 0.1}, []),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}, []),
        ({"num_gpu": 12, "num_thread": 3}, {"gpu_layers": 12, "threads": 3}, []),
        ({"tfs_z": 1}, {}, ["parameter tfs_z has no counterpart"]),
        ({"a\x1b[1m b": 1}, {}, ['parameter "a b" has no counterpart']),
        ({"top_p": 7}, {}, ["parameter top_p: Input should be less than or equal to 1"]),
        ({"temperature": None}, {}, []),
    ],
)
def test_parameters_become_options(parameters: dict[str, object], options: dict[str, object], notes: list[str]) -> None:
    assert convert_parameters(parameters) == (options, notes)


@given(
    st.dictionaries(st.text(max_size=20), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
)
def test_any_parameters_are_converted_or_noted(parameters: dict[str, object]) -> None:
    options, notes = convert_parameters(parameters)
    assert len(options) + len(notes) <= len(parameters) + 1
