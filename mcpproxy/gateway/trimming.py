"""Results that are larger than a model can use: their texts are cut, and say so; what cannot be cut is an error (`max_result`).

Cut are text blocks of a tool's `content`, the last first, so that what was said first stays whole. A result with `structuredContent` is not cut: half of it
would not be what the tool's outputSchema promises. Nor are prompts and resources: who reads half a file should know.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from mcpproxy.gateway.parts import TOO_LARGE, Answer
from mcpproxy.mcp import message

NOTE = "\n[cut here: the whole result has {} bytes, and {} are allowed]"
ROOM = 200  # bytes for the note, and for what JSON needs around a text
CUT = frozenset(("tools/call",))
LIMITED = CUT | {"prompts/get", "resources/read", "tasks/result"}
_object = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[Raw]).decode


def trimmed(method: str, answer: Answer, most: int) -> Answer:
    """The answer with a result of at most `most` bytes, or an error."""
    result = answer.result
    if result is None or method not in LIMITED or len(result) <= most:
        return answer
    found = _cut(result, most) if method in CUT else None
    if found is None:
        return Answer.failure(TOO_LARGE, f"The result has {len(result)} bytes, and {most} are allowed (max_result): ask for less of it")
    return Answer(found, None, answer.recovered)


def _cut(result: bytes, most: int) -> bytes | None:
    try:
        whole: dict[str, Any] = dict(_object(result))
        if "structuredContent" in whole or "content" not in whole:
            return None
        blocks: list[Any] = list(_list(whole["content"]))
        over = len(result) - most + ROOM
        note = NOTE.format(len(result), most)
        for place in range(len(blocks) - 1, -1, -1):
            block = dict(_object(blocks[place]))
            if block.get("type") != Raw(b'"text"'):
                continue
            text = msgspec.json.decode(block["text"], type=str)
            size = len(bytes(block["text"]))
            kept = _first(text, size - over)
            blocks[place] = {**block, "text": kept + note}
            over -= size - len(message.text(kept))
            note = "\n[cut]"
            if over <= 0:
                break
        whole["content"] = blocks
    except (msgspec.DecodeError, RecursionError, KeyError):
        return None
    found = message.encode(whole)
    return found if len(found) <= most else None


def _first(text: str, size: int) -> str:
    """As much of the text as has at most `size` bytes in JSON."""
    low, high = 0, max(0, min(len(text), size))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(message.text(text[:middle])) <= size else (low, middle - 1)
    return text[:low]
