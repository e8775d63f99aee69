"""From text and images to tokens: the tokenizer, the chat template, the image-only processor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from coordexp.coords import COORD_TOKENS, CoordObject, write_coordjson
from coordexp.data.chat import PROMPT, Prompt
from coordexp.data.prompt_file import read_prompt_file
from coordexp.data.scenes import CATEGORIES
from coordexp.models.processor_files import find_video_settings, name_processor

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen's text splitting (letters, single digits, punctuation, blanks): a tiny tokenizer cuts text as
# a published one does.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Renders a turn of images and text as Qwen3-VL's own template does. The text in the `generation`
# block is supervised.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ImageProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor without its video processor, which needs torchvision."""

    prompt = Prompt(PROMPT)  # of a checkpoint that was trained elsewhere: of its prompt.json
    videos: bytes | None = None  # file of the release's video processor

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(
            image_processor, tokenizer, video_processor=None, chat_template=chat_template, **kwargs
        )

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Write files of which `AutoProcessor` makes a processor of transformers' own."""
        super().save_pretrained(save_directory, push_to_hub, **kwargs)
        name_processor(Path(save_directory), self.videos)


def build_tokenizer(
    vocabulary_size: int, names: Sequence[str] = CATEGORIES
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the task's words, with Qwen's special tokens and the coordinate tokens.

    Args:
        vocabulary_size: of the BPE alone.
        names: of the objects; it learns them with the prompt and the form of an answer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(names), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    fast.add_tokens(list(COORD_TOKENS), special_tokens=False)
    return fast


def _corpus(names: Sequence[str]) -> Iterator[str]:
    """The texts that train the BPE: the prompt, and CoordJSON of every name without numbers."""
    for name in names:
        text = write_coordjson(
            [CoordObject(name, "bbox_2d", (0, 0, 0, 0)), CoordObject(name, "poly", (0,) * 6)]
        )
        yield text.replace(COORD_TOKENS[0], " ")
        yield f"user\n{PROMPT}\nassistant\n"


def build_processor(
    tokenizer: PreTrainedTokenizerFast, patch_size: int, chat_template: str = CHAT_TEMPLATE
) -> ImageProcessor:
    """This project's processor: images are not resized, pixel values are scaled to [-1, 1].

    `patch_size` is a patch's side in px; two by two patches become one token.
    """
    images = Qwen2VLImageProcessorPil(
        patch_size=patch_size,
        temporal_patch_size=2,
        merge_size=2,
        do_resize=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return ImageProcessor(images, tokenizer, chat_template=chat_template)


def load_processor(path: Path) -> ImageProcessor:
    """The processor of a base model or checkpoint that this project wrote."""
    processor = ImageProcessor(
        Qwen2VLImageProcessorPil.from_pretrained(path),
        PreTrainedTokenizerFast.from_pretrained(path, trust_remote_code=False),
        chat_template=(path / "chat_template.jinja").read_text(),
    )
    processor.videos = find_video_settings(str(path))
    if (recorded := read_prompt_file(path)) is not None:
        processor.prompt = recorded.prompt
    return processor
