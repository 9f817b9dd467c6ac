"""Base64 as it really comes, and pictures that routers put into the text."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.adapters.embedded import Embedded, cut_data_uris, decode

DATA = bytes(range(256)) + b"\xfb\xff\xfe"
URI = "data:image/png;base64," + base64.b64encode(DATA).decode()


@given(st.binary(min_size=1), st.booleans(), st.booleans(), st.integers(0, 5))
def test_base64_is_read_in_either_alphabet_padded_or_not_with_blanks(
    data: bytes, url_safe: bool, padded: bool, every: int
) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    if every:
        text = "\r\n ".join(text[i : i + every] for i in range(0, len(text), every))
    assert decode(text) == data


@pytest.mark.parametrize("text", ["A", "AAA*", "é", "AA=A=", "\ud800", "=" * 5 + "A"])
def test_broken_base64_is_nothing(text: str) -> None:
    assert decode(text) is None


def test_a_data_uri_in_place_of_the_data_is_understood() -> None:
    assert decode(URI) == DATA


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (f"![image]({URI})", ""),
        (f"Here:\n\n![a cat]({URI})\nDone.", "Here:\n\n\nDone."),
        (f"![]({URI})", ""),
        (URI, ""),
        (f"{URI} and words", "and words"),
        (f"see {URI}\n\nmore", "see \nmore"),
        (f'<img src="{URI}"/>', '<img src="/>'),
        (f"({URI}", "("),
        ("data:image/png without base64", "data:image/png without base64"),
        ("plain words", "plain words"),
        ("", ""),
    ],
)
def test_a_picture_in_the_text_is_cut_out_of_it(text: str, rest: str) -> None:
    kept, pictures = cut_data_uris(text)
    assert kept == rest
    assert [(p.mime, decode(p.data)) for p in pictures] == ([("image/png", DATA)] if URI in text else [])


def test_several_pictures_in_a_text_are_all_found() -> None:
    kept, pictures = cut_data_uris("a ![1](data:image/jpeg;base64,AAAA) b ![2](data:image/webp;base64,BBBB) c")
    assert kept == "a  b  c"
    assert pictures == [Embedded("image/jpeg", "AAAA"), Embedded("image/webp", "BBBB")]
