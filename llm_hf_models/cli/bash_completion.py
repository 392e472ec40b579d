"""Complete words with colons in bash, which splits `owner/name:Q4_K_M` into three words. click does not join them."""

from __future__ import annotations

from click.shell_completion import BashComplete, CompletionItem, add_completion_class

BREAKS = {":", "@"}  # characters of model names in bash's COMP_WORDBREAKS, which are words of their own


class NameComplete(BashComplete):
    """Completes names with colons. bash replaces only the part after the last colon, so only that part is offered."""

    _typed_before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words and the incomplete one, joined where bash has split them."""
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        previous = ""
        for word in [*args, incomplete]:
            if words and (word in BREAKS or (previous in BREAKS and word)):
                words[-1] += word
            else:
                words.append(word)
            previous = word
        joined = words[-1]
        self._typed_before = joined if incomplete in BREAKS else joined[: len(joined) - len(incomplete)]
        return words[:-1], joined

    def format_completion(self, item: CompletionItem) -> str:
        """Return the type and the part of the value that bash inserts."""
        return f"{item.type},{item.value[len(self._typed_before) :]}"


def register() -> None:
    """Use this class for completion in bash, in this process."""
    add_completion_class(NameComplete)
