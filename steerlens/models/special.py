"""Special tokens that are written in a text: a text is text, in a prompt they count."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from steerlens.models.vocabulary import Tokenizer, special_ids, special_names

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around the name of a special token where names in texts must not be taken for it; Unicode keeps
them out of all texts."""

Span = tuple[int, int]


class Tokens(NamedTuple):
    """Token ids of strings and, where asked for, the characters of the string that each token was
    read from."""

    ids: list[list[int]]
    spans: list[list[Span]]


def read_tokens(
    tokenizer: Tokenizer, strings: list[str], starts: Sequence[int], *, spans: bool = False
) -> Tokens:
    """Tokenise strings, each a prompt and from `starts` on a text: no special token comes out of
    the text.

    The tokenizer is asked as it is. Strings where special tokens came out of the text are then
    given to a copy that knows them by names that no text holds; in their prompts these names are
    put in, so that all else is read as before.

    Raises:
        ValueError: the tokenizer cannot read the name of a special token as text.
    """
    found = _ask(tokenizer, strings, spans)
    special = _special(tokenizer)
    rows = [
        row for row, ids in enumerate(found.ids) if special.in_text(ids, strings[row], starts[row])
    ]
    if not rows:
        return found
    some, places = [strings[row] for row in rows], [starts[row] for row in rows]
    if getattr(tokenizer, "is_fast", False):
        again = _literally(tokenizer, some, places, special)
    else:
        again = _split(tokenizer, some, places, special)
    for k, row in enumerate(rows):
        extra = special.beyond_prompt(again.ids[k], some[k], places[k])
        if extra:
            name = tokenizer.convert_ids_to_tokens(extra[-1])
            raise ValueError(
                f"text {row} ({some[k][places[k] :][:60]!r}): the tokenizer reads {name!r} in it as a special token and cannot "
                "read it as text; take it out of the text"
            )
        found.ids[row] = again.ids[k]
        if spans:
            found.spans[row] = again.spans[k]
    return found


@dataclass(frozen=True)
class _Special:
    """The special tokens of a tokenizer: names, a pattern of any, and ids, without that of an
    unknown word."""

    names: tuple[str, ...]
    pattern: re.Pattern[str]
    ids: frozenset[int]
    unknown: str
    unknown_id: int | None

    def in_text(self, ids: list[int], string: str, start: int) -> bool:
        """Return whether the name of a special token in the text was read as the token."""
        if not self.ids.isdisjoint(ids) and self.beyond_prompt(ids, string, start):
            return True
        return bool(self.unknown) and self.unknown in string[start:] and self.unknown_id in ids

    def beyond_prompt(self, ids: list[int], string: str, start: int) -> list[int]:
        """Return the special tokens among ids, if they are more than the prompt names."""
        found = [i for i in ids if i in self.ids]
        named = sum(name != self.unknown for name in self.pattern.findall(string[:start]))
        return found if len(found) > named else []


def _special(tokenizer: Tokenizer) -> _Special:
    names = special_names(tokenizer)
    # a word that is not known gives the unknown token, though nobody wrote it; it may be the end of
    # text too
    unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id}
    pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
    told = str(tokenizer.unk_token) if unknown - {None} else ""
    return _Special(names, pattern, special_ids(tokenizer) - unknown, told, tokenizer.unk_token_id)


def _ask(tokenizer: Tokenizer, strings: list[str], spans: bool) -> Tokens:
    if not strings:
        return Tokens([], [])
    options: dict[str, Any] = {"return_offsets_mapping": True} if spans else {}
    found = tokenizer(strings, add_special_tokens=False, return_attention_mask=False, **options)
    return Tokens(list(found["input_ids"]), list(found["offset_mapping"]) if spans else [])


def _split(
    tokenizer: Tokenizer, strings: list[str], starts: list[int], special: _Special
) -> Tokens:
    """Tokenise with a tokenizer in Python, which splits names of special tokens when it is told to.

    It splits all of them or none.
    """
    for string, start in zip(strings, starts, strict=True):
        if special.pattern.search(string[:start]):
            raise ValueError(
                f"prompts: {string[:start][:40]!r} and its text both hold names of special tokens; {type(tokenizer).__name__} "
                "cannot tell them apart, a fast tokenizer (tokenizers library) can"
            )
    return Tokens(
        tokenizer(strings, add_special_tokens=False, split_special_tokens=True)["input_ids"], []
    )


def _literally(
    tokenizer: Tokenizer, strings: list[str], starts: list[int], special: _Special
) -> Tokens:
    named = [
        special.pattern.sub(lambda name: OPEN + name[0] + CLOSE, string[:start]) + string[start:]
        for string, start in zip(strings, starts, strict=True)
    ]
    found = _renamed(tokenizer, special.names).encode_batch(named, add_special_tokens=False)
    spans = []
    for string, start, marked, encoded in zip(strings, starts, named, found, strict=True):
        # characters before each place, the marks around names left out
        before = [0, *accumulate(c not in (OPEN, CLOSE) for c in marked)]
        spans.append([(before[i], before[j]) for i, j in encoded.offsets])
        read = {place for i, j in spans[-1] for place in range(i, j)}
        for name in special.pattern.finditer(string, start):
            if not read.issuperset(range(*name.span())):
                raise ValueError(
                    f"text {string[start:][:60]!r}: {name[0]!r} is a special token of the tokenizer, which has no other way to "
                    "read it; give the tokenizer a special token that no text holds, or take it out of the text"
                )
    return Tokens([encoded.ids for encoded in found], spans)


def _renamed(tokenizer: Tokenizer, names: Sequence[str]) -> Any:
    """Return a copy of a fast tokenizer whose special tokens have the same ids and other names."""
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    other = {name: OPEN + name + CLOSE for name in names}
    for token in made["added_tokens"]:
        token["content"] = other.get(token["content"], token["content"])
    model = made["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {other.get(token, token): i for token, i in model["vocab"].items()}
    else:
        model["vocab"] = [[other.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = other.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [
            tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair)
            for pair in model["merges"]
        ]
        model["merges"] = [
            pair for pair in pairs if other.keys().isdisjoint((*pair, "".join(pair)))
        ]
    copy = type(tokenizer.backend_tokenizer).from_str(json.dumps(made))
    copy.no_truncation()
    copy.no_padding()
    return copy
