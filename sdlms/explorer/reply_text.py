"""A reply as it grows: its text, and where it ends."""

from sdlms.explorer.prompting import Prompting
from sdlms.models.token_texts import TextDecoder, TokenText, vocabulary_of


class ReplyWriter:
    """Follows the tokens of one reply.

    Attributes:
        ended: whether the last token ends the reply: one of `end_ids`, a control token that the
            template puts behind a reply, or the last of the text that it puts there.
        end: what of the template's text behind a reply the tokens spell.
        n_end_tokens: how many of the last tokens are nothing but that end.
    """

    def __init__(self, prompting: Prompting, end: str) -> None:
        """A reply without tokens.

        Args:
            prompting: of the model.
            end: the template's text behind a reply.
        """
        self.ended = False
        self.end = ""
        self.n_end_tokens = 0
        self._decoder = TextDecoder(vocabulary_of(prompting.tokenizer))
        self._end_ids = prompting.end_ids | prompting.control_ids_in(end)
        # Spaces alone stand between any two words.
        self._stop = "" if prompting.control_ids_in(end) or not end.strip(" ") else end
        self._texts: list[str] = []
        self._tail = ""  # the end of the text, in which the stop may begin

    @property
    def text(self) -> str:
        """What was said, without the end, stripped of spaces."""
        said = "".join(self._texts)
        return (said.partition(self._stop)[0] if self._stop else said).strip()

    def push(self, token_id: int) -> TokenText:
        """Take the next token; what it adds to the text."""
        added = self._decoder.push(token_id)
        if token_id in self._end_ids:
            self.ended, self.end, self.n_end_tokens = True, added.text, 1
            return added
        self._texts.append(added.text)
        self._tail += added.text
        if self._stop and self._stop in self._tail:
            self.ended, self.end, self.n_end_tokens = True, self._stop, self._n_within_stop()
        self._tail = self._tail[max(len(self._tail) - len(self._stop), 0) :]
        return added

    def _n_within_stop(self) -> int:
        """How many of the last tokens stand in the stop or behind it."""
        n_behind = len(self._tail) - self._tail.index(self._stop)
        n_within = 0
        for text in reversed(self._texts):
            if len(text) > n_behind:
                break
            n_behind -= len(text)
            n_within += 1
        return n_within
