"""From a prompt, a chat template and an answer to tokens, with the tokens of the answer marked."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from coordexp.errors import UserError, first_line

PROMPT = "Detect every object."  # of this project's trainings
IMAGE_TOKEN = "<|image_pad|>"
END_TOKEN = "<|im_end|>"  # of an answer

# A template renders within a millisecond; nested loops of a hostile one would never end.
RENDER_LIMIT_S = 10.0

# A template with this block tells which tokens are the assistant's.
_MARKS_ANSWER = re.compile(r"\{%-?\s*generation\b")
# Templates differ in how they take the text of a system message and of an answer.
_LAYOUTS = (("parts", "text"), ("text", "text"), ("parts", "parts"), ("text", "parts"))
# What the expressions of a template raise when it is rendered.
UNRENDERED = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)
_TRIAL_ANSWER = '{"objects": [{"desc": "a \'b\' & <c>", "bbox_2d": []}]}'


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, beside the picture, which stands before the user's text."""

    user: str
    system: str | None = None


class ChatEncoder:
    """Tokens of one prompt and any answer.

    A template that marks the answer is rendered with it. With another one, prompt and answer are
    tokenized separately, as they are when the model generates.
    """

    def __init__(
        self, tokenizer: Any, template: str, prompt: Prompt, named: str = "the chat template"
    ) -> None:
        """Choose the layout of messages that the template takes.

        Args:
            tokenizer: of Hugging Face.
            template: Jinja, as `apply_chat_template` takes it.
            prompt: the same for every picture.
            named: what error messages call the template.

        Raises:
            UserError: the template cannot be rendered, takes longer than RENDER_LIMIT_S, or loses
                the picture, the prompt or a part of the answer.
        """
        self.tokenizer, self.template, self.prompt = tokenizer, template, prompt
        self.named = named
        self.marks_answer = _MARKS_ANSWER.search(template) is not None
        problems = []
        for self.layout in _LAYOUTS:
            problem = self._problem()
            if problem is None:
                break
            problems.append(problem)
        else:
            raise UserError(f"{named} {problems[0]}: give another one with --template FILE")
        self._before = None if self.marks_answer else self._token_ids(self._rendered(None))

    def encode(self, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of prompt, answer and end token; 1 for those of answer and end, else 0.

        Raises:
            UserError: the template takes longer than RENDER_LIMIT_S.
        """
        if self._before is None:
            with limited_rendering(self.named):
                encoded = self.tokenizer.apply_chat_template(
                    self._messages(answer),
                    chat_template=self.template,
                    tokenize=True,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
            return encoded["input_ids"], encoded["assistant_masks"]
        supervised = self._token_ids(answer + END_TOKEN)
        return self._before + supervised, [0] * len(self._before) + [1] * len(supervised)

    def _problem(self) -> str | None:
        """Why the template does not take messages in this layout; None if it does."""
        try:
            before, whole = self._rendered(None), self._rendered(_TRIAL_ANSWER)
        except UNRENDERED as error:
            return f"cannot be rendered ({first_line(error)})"
        if before.count(IMAGE_TOKEN) != 1:
            return f"and the prompt write {before.count(IMAGE_TOKEN)} pictures instead of one"
        for what, text in (("system", self.prompt.system), ("user", self.prompt.user)):
            if text and text.strip() not in before:
                return f"does not write the {what} prompt"
        if not whole.startswith(before):
            return "writes another prompt before an answer than for generation"
        if not whole[len(before) :].startswith(_TRIAL_ANSWER + END_TOKEN):
            return f"does not write the answer as it is, followed by {END_TOKEN}"
        return None

    def _messages(self, answer: str | None) -> list[dict[str, Any]]:
        system_as, answer_as = self.layout
        user = [{"type": "image"}, {"type": "text", "text": self.prompt.user}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": user}]
        if self.prompt.system is not None:
            content = _content(self.prompt.system, system_as)
            messages.insert(0, {"role": "system", "content": content})
        if answer is not None:
            messages.append({"role": "assistant", "content": _content(answer, answer_as)})
        return messages

    def _rendered(self, answer: str | None) -> str:
        """The text of the prompt, up to where the answer begins, or of the whole conversation."""
        with limited_rendering(self.named):
            rendered: str = self.tokenizer.apply_chat_template(
                self._messages(answer),
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=answer is None,
            )
        return rendered

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@contextmanager
def limited_rendering(named: str) -> Iterator[None]:
    """End a template after RENDER_LIMIT_S of this process's time.

    Only the main thread may set a handler. A trainer encodes batches in another one, with this
    project's own template.

    Raises:
        UserError: the limit was reached.
    """

    def end(*_: object) -> None:
        raise UserError(
            f"{named} took longer than {RENDER_LIMIT_S:g} s: give another one with --template FILE"
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, end)
    # Again each second: Jinja drops what is raised while it folds constants.
    signal.setitimer(signal.ITIMER_VIRTUAL, RENDER_LIMIT_S, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _content(text: str, layout: str) -> str | list[dict[str, str]]:
    return text if layout == "text" else [{"type": "text", "text": text}]
