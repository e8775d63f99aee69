"""From a prompt, a chat template and an answer to tokens, with the tokens of the answer marked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from coordexp.errors import UserError, first_line

IMAGE_TOKEN = "<|image_pad|>"
END_TOKEN = "<|im_end|>"  # of an answer

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
            UserError: the template cannot be rendered, or loses the picture, the prompt or a part
                of the answer.
        """
        self.tokenizer, self.template, self.prompt = tokenizer, template, prompt
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
        """Token ids of prompt, answer and end token; 1 for those of answer and end, else 0."""
        if self._before is None:
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


def _content(text: str, layout: str) -> str | list[dict[str, str]]:
    return text if layout == "text" else [{"type": "text", "text": text}]
