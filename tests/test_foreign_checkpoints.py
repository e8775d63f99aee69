"""Checkpoints of other trainers: which prompt they are asked, and which of them are refused."""

from __future__ import annotations

import copy
import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from coordexp.cli.main import main
from coordexp.coords import COORD_TOKENS
from coordexp.data import chat
from coordexp.data.batches import Dataset
from coordexp.data.chat import PROMPT, ChatEncoder, Prompt
from coordexp.data.prompt_file import OWN, PromptFile, read_prompt_file
from coordexp.data.records import read_records
from coordexp.data.token_records import read_pixel_records, written_in_pixels
from coordexp.errors import UserError
from coordexp.models.base import load_tokenizer
from coordexp.models.foreign_prompt import GivenPrompt, find_prompt, given_text
from coordexp.models.processor import CHAT_TEMPLATE, load_processor
from coordexp.probe.outside import Outside, load_outside
from coordexp.storage.logs.jsonl import read_log

WEIGHTS = "model.safetensors"
NORM = "model.language_model.norm.weight"
# As published models write it: no block that marks the answer, a default system prompt, an answer
# that may be a text or parts.
FOREIGN_TEMPLATE = (
    "{%- if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}"
    "{%- for part in message.content %}{%- if part.type == 'image' %}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{%- else %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# Takes texts for system and answer, but no parts.
TEXTS_ONLY = FOREIGN_TEMPLATE.replace(
    "{%- if message.content is string %}", "{%- if message.role != 'user' %}"
).replace("{{- message.content }}{%- else %}", "{{- '' + message.content }}{%- else %}")


@pytest.fixture(scope="session")
def saved(tiny, tmp_path_factory) -> Path:
    """A checkpoint as plain transformers saves it: without template, prompt or processor."""
    path = tmp_path_factory.mktemp("foreign") / "checkpoint-500"
    copy.deepcopy(tiny.vlm).float().save_pretrained(path)
    tiny.processor.tokenizer.save_pretrained(path)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    return path


@pytest.fixture
def checkpoint(saved, in_tmp) -> Path:
    return Path(shutil.copytree(saved, in_tmp / "run" / saved.name))


def load(checkpoint: Path, adapter: Path | None = None, **given: Any) -> Any:
    outside = Outside(checkpoint, "m", 1, 1.0, adapter, GivenPrompt(**given))
    return load_outside(outside, find_prompt(outside.directories, outside.given))


def change_weights(checkpoint: Path, change: Any) -> None:
    weights = load_file(checkpoint / WEIGHTS)
    change(weights)
    save_file(weights, checkpoint / WEIGHTS, metadata={"format": "pt"})


# ---- prompts ----


def test_prompt_of_a_checkpoint_that_names_none_is_this_projects(checkpoint):
    found = find_prompt([checkpoint], GivenPrompt())
    assert found.template == CHAT_TEMPLATE
    assert found.recorded == PromptFile(PROMPT, None, OWN, None, OWN)
    assert str(found) == (
        "chat template of this project, no system prompt, "
        'user prompt of this project ("Detect every object."), because the checkpoint names none: '
        "--prompt gives the one of its training"
    )


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({"chat_template.jinja": FOREIGN_TEMPLATE}, "chat_template.jinja"),
        ({"chat_template.json": {"chat_template": FOREIGN_TEMPLATE}}, "chat_template.json"),
        ({"tokenizer_config.json": {"chat_template": FOREIGN_TEMPLATE}}, "tokenizer_config.json"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tool_use", "template": "x"},
                        {"name": "default", "template": FOREIGN_TEMPLATE},
                    ]
                }
            },
            "tokenizer_config.json",
        ),
        (
            {
                "chat_template.jinja": FOREIGN_TEMPLATE,
                "tokenizer_config.json": {"chat_template": "x"},
            },
            "chat_template.jinja",
        ),
    ],
)
def test_template_is_found_wherever_trainers_keep_it(in_tmp, files, source):
    for name, content in files.items():
        Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    found = find_prompt([in_tmp], GivenPrompt())
    assert (found.template, found.recorded.template_source) == (FOREIGN_TEMPLATE, source)


@pytest.mark.parametrize("where", [".", ".."])
def test_system_prompt_of_ms_swift_is_taken_and_an_option_comes_first(checkpoint, where):
    arguments = {"system": "Write CoordJSON.", "template": "qwen3_vl"}
    (checkpoint / where / "args.json").write_text(json.dumps(arguments))
    recorded = find_prompt([checkpoint], GivenPrompt()).recorded
    assert (recorded.system, recorded.system_source) == ("Write CoordJSON.", "args.json")
    for text, system, source in (("Other.", "Other.", "--system"), ("", None, None)):
        recorded = find_prompt([checkpoint], GivenPrompt(system=text, user="Find.")).recorded
        assert (recorded.system, recorded.system_source) == (system, source)
        assert (recorded.user, recorded.user_source) == ("Find.", "--prompt")


def test_args_json_beside_an_unrelated_directory_is_not_read(in_tmp):
    (in_tmp / "model").mkdir()
    (in_tmp / "args.json").write_text('{"system": "of something else"}')
    assert find_prompt([in_tmp / "model"], GivenPrompt()).recorded.system is None


@pytest.mark.usefixtures("in_tmp")
def test_an_adapters_prompt_comes_before_its_base_models():
    for name, template in (("base", "b"), ("adapter", "a")):
        Path(name).mkdir()
        Path(name, "chat_template.jinja").write_text(template)
    assert find_prompt([Path("adapter"), Path("base")], GivenPrompt()).template == "a"


@pytest.mark.usefixtures("in_tmp")
def test_option_with_at_sign_is_a_file(refused):
    Path("prompt.txt").write_text("Find\nall.\n")
    assert given_text("@prompt.txt", "--prompt") == "Find\nall."
    assert given_text("all @ once", "--prompt") == "all @ once"
    with refused("--prompt @nowhere.txt: no such file"):
        given_text("@nowhere.txt", "--prompt")
    Path("latin.txt").write_bytes(b"\xe4")
    with refused("latin.txt: not UTF-8"):
        given_text("@latin.txt", "--prompt")


@pytest.mark.parametrize("template", [FOREIGN_TEMPLATE, TEXTS_ONLY, CHAT_TEMPLATE])
@pytest.mark.parametrize("system", [None, "Write <|coord_1|> only.\n"])
def test_tokens_are_those_of_the_rendered_conversation(tiny, template, system):
    tokenizer = tiny.processor.tokenizer
    prompt = Prompt("Find it.", system)
    answer = '{"objects": [{"desc": "red circle", "bbox_2d": [<|coord_7|>]}]}'
    ids, mask = ChatEncoder(tokenizer, template, prompt).encode(answer)
    text = tokenizer.decode(ids)
    n = mask.index(1)
    assert tokenizer.decode(ids[:n]).endswith("<|im_start|>assistant\n")
    supervised = [token for token, marked in zip(ids, mask, strict=True) if marked]
    assert tokenizer.decode(supervised) == answer + "<|im_end|>"
    assert text.count("<|image_pad|>") == 1
    assert "Find it." in text
    assert ("Write <|coord_1|> only." in text) == (system is not None)
    assert ("You help." in text) == (system is None and template != CHAT_TEMPLATE)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for %}", "cannot be rendered"),
        ("{{ raise_exception('no') }}", "cannot be rendered (no)"),
        (FOREIGN_TEMPLATE.replace("<|image_pad|>", ""), "write 0 pictures instead of one"),
        (FOREIGN_TEMPLATE.replace("part.text", "'?'"), "does not write the user prompt"),
        (FOREIGN_TEMPLATE.replace("<|im_end|>", "</s>"), "followed by <|im_end|>"),
        (FOREIGN_TEMPLATE + "{% if add_generation_prompt %}<think>{% endif %}", "another prompt"),
    ],
)
def test_template_that_loses_something_is_refused(tiny, refused, template, says):
    with refused("theirs ", says, "--template FILE"):
        ChatEncoder(tiny.processor.tokenizer, template, Prompt("Find it."), "theirs")


LOOPS = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3


@pytest.mark.parametrize("template", [LOOPS, "{{ 9 ** (9 ** 9) }}"])
def test_template_that_would_never_end_is_refused(tiny, refused, monkeypatch, template):
    monkeypatch.setattr(chat, "RENDER_LIMIT_S", 0.2)
    before = signal.getsignal(signal.SIGVTALRM)
    with refused("theirs took longer than 0.2 s", "--template FILE"):
        ChatEncoder(tiny.processor.tokenizer, template, Prompt("Find it."), "theirs")
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_answer_at_which_a_template_never_ends_is_refused(tiny, refused, monkeypatch):
    """Only answers that are longer than the trial one start the loops."""
    monkeypatch.setattr(chat, "RENDER_LIMIT_S", 0.2)
    own = tiny.processor.chat_template
    hostile = own + "{% if messages[-1].content|string|length > 500 %}" + LOOPS + "{% endif %}"
    encoder = ChatEncoder(tiny.processor.tokenizer, hostile, Prompt("Find it."), "theirs")
    ids, _ = encoder.encode("short")
    assert ids
    with refused("theirs took longer than 0.2 s"):
        encoder.encode("long " * 200)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"version": "1.0"}', b"\xff", b"[]"])
def test_damaged_tokenizer_is_one_line(checkpoint, refused, content):
    (checkpoint / "tokenizer.json").write_bytes(content)
    with refused(f"{checkpoint}: its tokenizer cannot be read"):
        load_tokenizer(str(checkpoint))


def test_prompt_with_a_picture_of_its_own_is_refused(tiny, refused):
    with refused("write 2 pictures instead of one"):
        ChatEncoder(tiny.processor.tokenizer, FOREIGN_TEMPLATE, Prompt("<|image_pad|>"))


@pytest.mark.slow
def test_another_prompt_is_another_evaluation(checkpoint, scenes, in_tmp, capsys):
    (checkpoint / "chat_template.jinja").write_text(FOREIGN_TEMPLATE)
    (checkpoint / "args.json").write_text('{"system": "Write CoordJSON."}')
    shutil.copy(scenes.path / "val.jsonl", in_tmp / "v.jsonl")
    (in_tmp / "images").symlink_to(scenes.path / "images")
    runs = []
    for extra in ([], ["--prompt", "Find all."], ["--system", ""]):
        main(["evaluate", str(checkpoint), "--data", "v.jsonl", "--name", "m", *extra])
        said, path = capsys.readouterr().out.strip().splitlines()
        runs.append(Path(path))
        assert said.startswith(f"{checkpoint}: chat template of chat_template.jinja, ")
    assert len(set(runs)) == 3
    first = runs[0] / "checkpoints" / "step-000001"
    assert read_prompt_file(first) == PromptFile(
        PROMPT, "Write CoordJSON.", OWN, "args.json", "chat_template.jinja"
    )
    dataset = Dataset(in_tmp / "v.jsonl", load_processor(first))
    text = dataset.processor.tokenizer.decode(dataset.encode(0).ids)
    assert text.startswith("<|im_start|>system\nWrite CoordJSON.<|im_end|>\n<|im_start|>user\n")
    losses = {read_log(run / "logging.jsonl").evals[1]["loss"] for run in runs}
    assert len(losses) == 3


# ---- checkpoints that are refused ----


def add_lora(weights: dict) -> None:
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name.replace("q_proj.weight", "q_proj.lora_A.default.weight")] = torch.zeros(2, 2)


def rename_base_layer(weights: dict) -> None:
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name.replace("q_proj.", "q_proj.base_layer.")] = weights.pop(name)


def put_nan(weights: dict) -> None:
    next(w for n, w in weights.items() if n.endswith("q_proj.weight"))[0, 0] = math.nan


def put_infinity(weights: dict) -> None:
    next(w for n, w in weights.items() if "visual" in n)[0] = math.inf


def remove_one(weights: dict) -> None:
    del weights[next(name for name in weights if name.endswith("q_proj.weight"))]


def prefix_all(weights: dict) -> None:
    for name in list(weights):
        weights[f"module.{name}"] = weights.pop(name)


def add_layer(weights: dict) -> None:
    weights["model.language_model.layers.99.mlp.up_proj.weight"] = torch.zeros(2, 2)


def add_other_head(weights: dict) -> None:
    embedding = next(w for n, w in weights.items() if n.endswith("embed_tokens.weight"))
    weights["lm_head.weight"] = embedding + 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (add_lora, "adapters that were not merged"),
        (rename_base_layer, "adapters that were not merged"),
        (put_nan, "hold NaN or infinity"),
        (put_infinity, "hold NaN or infinity"),
        (remove_one, "1 of its weights are not there"),
        (prefix_all, "of its weights are not there"),
        (add_layer, "have no place in the model of config.json"),
        (add_other_head, "differs from the embedding"),
    ],
)
def test_weights_of_no_whole_model_are_refused(checkpoint, refused, change, says):
    change_weights(checkpoint, change)
    with refused(f"{checkpoint}: ", says):
        load(checkpoint)


def test_missing_shard_is_named(checkpoint, tiny, refused):
    model = copy.deepcopy(tiny.vlm).float()
    (checkpoint / WEIGHTS).unlink()
    model.save_pretrained(checkpoint, max_shard_size="50KB")
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 1
    load(checkpoint)
    shards[-1].unlink()
    with refused("1 of its weight files are missing", shards[-1].name):
        load(checkpoint)


def test_tokenizer_larger_than_the_embedding_is_refused(checkpoint, tiny, refused):
    tokenizer = copy.deepcopy(tiny.processor.tokenizer)
    tokenizer.add_tokens(["<one_more>"])
    tokenizer.save_pretrained(checkpoint)
    with refused(f"{checkpoint}: its tokenizer has tokens up to", "its embedding"):
        load(checkpoint)


def test_tokenizer_without_all_coordinate_tokens_is_refused(checkpoint, refused):
    path = checkpoint / "tokenizer.json"
    path.write_text(path.read_text().replace("<|coord_999|>", "<|coord_x|>"))
    with refused(f"{checkpoint}: its tokenizer lacks some of"):
        load(checkpoint)


def exchange_tokens(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    text = path.read_text()
    for old, new in (("3|>", "swap|>"), ("700|>", "3|>"), ("swap|>", "700|>")):
        text = text.replace(f"<|coord_{old}", f"<|coord_{new}")
    path.write_text(text)


def test_coordinate_tokens_may_have_any_ids(checkpoint):
    exchange_tokens(checkpoint)
    _, processor = load(checkpoint)
    ids = processor.tokenizer.convert_tokens_to_ids(list(COORD_TOKENS))
    assert ids != sorted(ids)


def test_pickled_weights_and_remote_code_are_not_loaded(checkpoint, refused):
    config = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / WEIGHTS)
    (checkpoint / WEIGHTS).unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin")
    with refused("its weights are pickles"):
        load(checkpoint)
    save_file(weights, checkpoint / WEIGHTS, metadata={"format": "pt"})
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "evil.py").write_text("raise SystemExit('ran code of the checkpoint')")
    with refused("no Qwen3-VL could be loaded"):
        load(checkpoint)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_of_eight_bits_without_a_word_in_the_configuration(checkpoint, refused, dtype):
    def change(weights):
        name = max(weights)
        weights[name] = weights[name].to(dtype)

    change_weights(checkpoint, change)
    with refused("its weights are quantised"):
        load(checkpoint)


def test_weights_in_float64_are_taken(checkpoint):
    change_weights(checkpoint, lambda w: w.update({name: x.double() for name, x in w.items()}))
    load(checkpoint)


def test_weights_of_another_shape_are_named(checkpoint, refused):
    change_weights(checkpoint, lambda weights: weights.update({NORM: torch.ones(3)}))
    with refused(f"1 of its weights have another shape than config.json says, such as {NORM}"):
        load(checkpoint)


def test_pointer_of_git_lfs_is_told(checkpoint, refused):
    (checkpoint / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with refused("model.safetensors is a pointer of Git LFS"):
        load(checkpoint)


@pytest.mark.parametrize("as_adapter", [False, True])
def test_adapter_beside_whole_weights_is_refused(checkpoint, refused, as_adapter):
    # transformers would load and merge it by itself, and write a checkpoint that cannot be read.
    (checkpoint / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with refused("holds whole weights and an adapter"):
        load(checkpoint, checkpoint if as_adapter else None)


PREPROCESSOR = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "do_rescale": None}


def test_pictures_are_normalised_as_in_the_training(checkpoint, capsys):
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    stored = PREPROCESSOR | {"image_mean": mean, "image_std": std}
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(stored))
    _, processor = load(checkpoint)
    images = processor.image_processor
    assert (list(images.image_mean), list(images.image_std)) == (mean, std)
    assert "mean 0.48, 0.46, 0.41 and SD 0.27, 0.26, 0.28" in capsys.readouterr().out
    # The form of newer releases comes first.
    (checkpoint / "processor_config.json").write_text(json.dumps({"image_processor": PREPROCESSOR}))
    assert list(load(checkpoint)[1].image_processor.image_mean) == [0.5] * 3


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"patch_size": 14}, "patch_size 14, but config.json says 16"),
        ({"merge_size": 4}, "merge_size 4, but config.json says 2"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"image_std": [0.0, 1, 1]}, "image_std must be above 0"),
        ({"image_mean": [0.5]}, "image_mean must be three numbers"),
    ],
)
def test_pictures_that_cannot_be_made_as_in_the_training(checkpoint, refused, changed, told):
    path = checkpoint / "preprocessor_config.json"
    path.write_text(json.dumps(PREPROCESSOR | changed))
    with refused(told):
        load(checkpoint)


def test_system_prompt_that_is_no_text_is_refused(checkpoint, refused):
    (checkpoint / "args.json").write_text('{"system": ["a", "b"]}')
    with refused("its system prompt is no text: give --system"):
        find_prompt([checkpoint], GivenPrompt())
    assert find_prompt([checkpoint], GivenPrompt(system="Own.")).recorded.system == "Own."


def test_layers_that_the_weights_lack_are_refused_at_once(checkpoint, refused):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["num_hidden_layers"] = 10**6
    path.write_text(json.dumps(config))
    with refused("config.json says 1000000 layers", "its weights hold 1"):
        load(checkpoint)


@pytest.mark.parametrize("group", [None, "text_config", "vision_config"])
@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_quantised_weights_are_refused(checkpoint, refused, group, method):
    config = json.loads((checkpoint / "config.json").read_text())
    settings = config[group] if group else config
    settings["quantization_config"] = {"quant_method": method, "bits": 4}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with refused("its weights are quantised"):
        load(checkpoint)


@pytest.mark.slow
def test_finite_weights_that_compute_nan_are_refused(checkpoint, scenes, in_tmp):
    def overflow(weights: dict) -> None:
        for weight in weights.values():
            weight *= 1e37

    change_weights(checkpoint, overflow)
    shutil.copy(scenes.path / "val.jsonl", in_tmp / "v.jsonl")
    (in_tmp / "images").symlink_to(scenes.path / "images")
    with pytest.raises(SystemExit, match="the weights are finite, but what the model computes"):
        main(["evaluate", str(checkpoint), "--data", "v.jsonl", "--name", "m"])
    assert not list(Path("results/evaluated").glob("*"))


@pytest.mark.slow
def test_tokens_and_their_rows_in_another_order_are_the_same_model(
    checkpoint, scenes, in_tmp, capsys
):
    """Bins 3 and 700 exchange their ids, and the embedding exchanges their rows."""
    other = Path(shutil.copytree(checkpoint, in_tmp / "other"))
    exchange_tokens(other)
    ids = load(checkpoint)[1].tokenizer.convert_tokens_to_ids(["<|coord_3|>", "<|coord_700|>"])

    def exchange_rows(weights: dict) -> None:
        rows = next(w for n, w in weights.items() if n.endswith("embed_tokens.weight"))
        rows[ids] = rows[ids[::-1]].clone()

    change_weights(other, exchange_rows)
    shutil.copy(scenes.path / "val.jsonl", in_tmp / "v.jsonl")
    (in_tmp / "images").symlink_to(scenes.path / "images")
    rows = []
    for path in (checkpoint, other):
        main(["evaluate", str(path), "--data", "v.jsonl", "--name", "m"])
        run = Path(capsys.readouterr().out.strip().splitlines()[-1])
        rows.append(read_log(run / "logging.jsonl").evals[1])
    for key in ("loss", "coord_diag/expected_bin_mae", "coord_token_acc", "coord_diag/crps"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-5)


# ---- adapters ----


@pytest.fixture
def adapter(checkpoint, in_tmp) -> Path:
    """A LoRA adapter of this checkpoint that changes its outputs."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(model, config).save_pretrained(in_tmp / "adapter")
    return in_tmp / "adapter"


def test_adapter_alone_is_refused_and_its_option_named(adapter, checkpoint, refused):
    with pytest.raises(SystemExit, match="an adapter without its base model") as error:
        main(["evaluate", str(adapter), "--data", "v.jsonl", "--name", "m"])
    assert f"--adapter {adapter}" in str(error.value)
    shutil.copytree(adapter, checkpoint, dirs_exist_ok=True)  # with the base's config.json
    (checkpoint / WEIGHTS).unlink()
    with refused("an adapter without its base model", f"--adapter {checkpoint}"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r is 0: must be a whole number from 1 to 65536"),
        ({"r": 10**9}, "r is 1000000000: must be"),
        ({"r": "2"}, "r is 2: must be a whole number"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern.q_proj is 1000000000"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan: must be a positive number"),
        ({"alpha_pattern": {"q_proj": math.inf}}, "alpha_pattern.q_proj is inf"),
        ({"target_modules": ["nothing"]}, "not an adapter of this model"),
        ({"target_modules": 7}, "not an adapter of this model"),
        ({"peft_type": "NONE"}, "not an adapter of this model"),
        ({"lora_alpha": 1e308}, "of its weights hold NaN or infinity"),
    ],
    ids=str,
)
def test_impossible_settings_of_an_adapter_are_refused(adapter, checkpoint, settings, message):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(UserError) as error:
        load(checkpoint, adapter)
    assert str(error.value).startswith(f"--adapter {adapter}: ")
    assert message in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("content", ["[]", "null", "7", '"x"', "{"])
def test_adapter_settings_of_another_shape_are_refused(adapter, checkpoint, content):
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match="give a"):
        load(checkpoint, adapter)


def test_adapter_is_merged_as_peft_merges_it(adapter, checkpoint):
    from peft import PeftModel

    model, _ = load(checkpoint, adapter)
    base = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    plain = load_file(checkpoint / WEIGHTS)
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    changed = [name for name in plain if not torch.equal(plain[name], state[name])]
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)


def test_adapter_that_stores_a_larger_embedding_grows_the_base(checkpoint, tiny, in_tmp):
    """As ms-swift saves new tokens: embedding and head whole, the tokenizer beside the adapter."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint)
    tokenizer = copy.deepcopy(tiny.processor.tokenizer)
    tokenizer.add_tokens(["<one_more>"])
    model.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name:
                weight[-1] = 0.25
    adapted.save_pretrained(in_tmp / "adapter")
    tokenizer.save_pretrained(in_tmp / "adapter")
    merged, processor = load(checkpoint, in_tmp / "adapter")
    rows = merged.get_input_embeddings().weight
    assert rows.shape[0] == len(tokenizer) == len(processor.tokenizer)
    assert (rows[-1] == 0.25).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: (path / "adapter_config.json").unlink(), "holds no adapter_config.json"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "holds no adapter_model"),
        (lambda path: rename_in(path, "layers.0.", "layers.77."), "not an adapter of this model"),
        (lambda path: rename_in(path, "lora_A", "lora_C"), "not an adapter of this model"),
        (lambda path: (path / "adapter_config.json").write_text("{}"), "not an adapter"),
    ],
)
def test_adapter_of_another_model_is_refused(adapter, checkpoint, refused, change, says):
    change(adapter)
    with refused(f"--adapter {adapter}: ", says):
        load(checkpoint, adapter)


def rename_in(adapter: Path, old: str, new: str) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name.replace(old, new): w for name, w in weights.items()}, path)


def test_adapter_with_nan_is_refused(adapter, checkpoint, refused):
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: weight * math.nan for name, weight in weights.items()}, path)
    with refused("--adapter", "hold NaN or infinity"):
        load(checkpoint, adapter)


# ---- records in coordinate tokens ----


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def in_tokens(record: Any) -> dict:
    objects = [
        {"desc": obj.desc, obj.kind: [COORD_TOKENS[k] for k in obj.bins]}
        for obj in record.coord_objects()
    ]
    sides = {"width": record.width, "height": record.height}
    return {"images": [record.image], **sides, "objects": objects}


def test_records_in_tokens_have_the_bins_of_those_in_pixels(scenes, in_tmp):
    records = read_records(scenes.path / "val.jsonl")
    (in_tmp / "images").symlink_to(scenes.path / "images")
    path = write_lines(in_tmp / "val.jsonl", [in_tokens(record) for record in records])
    split = read_pixel_records(path)
    (in_pixels,) = written_in_pixels([split], in_tmp / "results" / "data")
    written = read_records(in_pixels)
    for original, read in zip(records, written, strict=True):
        expected = sorted((o.desc, o.kind, o.bins) for o in original.coord_objects())
        assert sorted((o.desc, o.kind, o.bins) for o in read.coord_objects()) == expected
    plain = read_pixel_records(scenes.path / "val.jsonl")
    assert written_in_pixels([plain], in_tmp) == [plain.path]
    both = written_in_pixels([plain, replace(split, path=in_tmp / "train.jsonl")], in_tmp / "both")
    assert both == [in_tmp / "both" / "val.jsonl", in_tmp / "both" / "train.jsonl"]
    assert read_records(both[0])[0].objects == records[0].objects


@pytest.mark.parametrize("box", [(0, 5, 0, 9), (999, 5, 999, 9), (7, 500, 9, 500), (3, 3, 3, 3)])
def test_flat_box_in_tokens_keeps_its_bins(in_tmp, box):
    from PIL import Image

    Image.new("RGB", (64, 32)).save("0.png")
    row = {"images": ["0.png"], "width": 64, "height": 32}
    row["objects"] = [{"desc": "a", "bbox_2d": [COORD_TOKENS[k] for k in box]}]
    (record,) = read_pixel_records(write_lines(in_tmp / "v.jsonl", [row])).records
    assert record.coord_objects()[0].bins == box


def test_file_that_mixes_tokens_and_pixels_is_refused(in_tmp, refused):
    row = {"images": ["0.png"], "width": 64, "height": 32}
    row["objects"] = [
        {"desc": "a", "bbox_2d": list(COORD_TOKENS[:4])},
        {"desc": "b", "bbox_2d": [1, 2, 3, 4]},
    ]
    with refused("v.jsonl:1, object 1: holds something else than the coordinate tokens"):
        read_pixel_records(write_lines(in_tmp / "v.jsonl", [row]))


@pytest.mark.parametrize("side", [1024, 640])
def test_bins_as_whole_numbers_are_refused(in_tmp, refused, side):
    row = {"images": ["0.png"], "width": side, "height": side}
    row["objects"] = [{"desc": "a", "bbox_2d": [100, 200, 700, 990]}]
    path = write_lines(in_tmp / "v.jsonl", [row])
    with refused("v.jsonl: its coordinates look like bins 0 … 999", "<|coord_12|>"):
        read_pixel_records(path)


def test_sizes_in_place_of_corners_are_refused_as_validate_does(in_tmp, refused):
    rows = []
    for i in range(20):
        row = {"images": [f"{i}.png"], "width": 640, "height": 480}
        row["objects"] = [{"desc": "a", "bbox_2d": [300.5 + i, 200.5 + i, 90.25, 40.25]}]
        rows.append(row)
    with refused("v.jsonl: 20 of 20 objects look like x, y, width, height or", "write x1, y1"):
        read_pixel_records(write_lines(in_tmp / "v.jsonl", rows))


@pytest.mark.parametrize(
    ("side", "box"),
    [(640, [100, 200, 600, 639]), (1024, [100, 200, 700, 1010]), (1024, [100.0, 200, 700, 990])],
)
def test_pixels_are_not_taken_for_bins(in_tmp, side, box):
    from PIL import Image

    Image.new("RGB", (side, side)).save("0.png")
    row = {"images": ["0.png"], "width": side, "height": side}
    row["objects"] = [{"desc": "a", "bbox_2d": box}]
    (record,) = read_pixel_records(write_lines(in_tmp / "v.jsonl", [row])).records
    assert record.objects[0].pixels == tuple(box)
