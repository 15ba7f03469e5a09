"""Text out of token bytes: whole characters, stop strings across token borders."""

import pytest

from plugins.providers.llama_cpp.sampling.detokenizer import TextStream


def _all(stream: TextStream, pieces: list[bytes]) -> str:
    return "".join(stream.push(piece) for piece in pieces) + stream.finish()


def test_text_when_emoji_is_split_over_tokens_then_comes_whole():
    stream, emoji = TextStream(()), "🐒".encode()
    shown = [stream.push(emoji[at : at + 1]) for at in range(len(emoji))]
    assert shown == ["", "", "", "🐒"]


def test_text_when_answer_ends_within_a_character_then_half_is_dropped():
    assert _all(TextStream(()), [b"ok", "é".encode()[:1]]) == "ok"


def test_text_when_bytes_are_no_utf8_then_replaced_and_goes_on():
    assert _all(TextStream(()), [b"a", b"\xff", b"b"]) == "a\ufffdb"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_text_when_stop_string_comes_in_pieces_then_cut_before_it(size: int):
    text = b"one END two"
    stream = TextStream(("END",))
    assert _all(stream, [text[at : at + size] for at in range(0, len(text), size)]) == "one "
    assert stream.stopped


def test_text_when_stop_string_only_begins_then_held_and_shown_later():
    stream = TextStream(("</answer>",))
    assert stream.push(b"x </ans") == "x "
    assert stream.push(b"!") == "</ans!"
    assert not stream.stopped


def test_text_when_answer_ends_with_begun_stop_string_then_shown():
    stream = TextStream(("STOP",))
    assert stream.push(b"a ST") == "a "
    assert stream.finish() == "ST"


def test_text_when_several_stops_match_then_first_in_text_counts():
    assert _all(TextStream(("c", "b")), [b"abc"]) == "a"


def test_text_when_stop_string_holds_emoji_split_over_tokens_then_found():
    data = "hi 🐒 there".encode()
    assert _all(TextStream(("🐒",)), [data[at : at + 1] for at in range(len(data))]) == "hi "


def test_text_when_stopped_then_nothing_more_comes():
    stream = TextStream(("x",))
    assert stream.push(b"ax") == "a"
    assert stream.push(b"more") == ""
    assert stream.finish() == ""
