"""Values of settings: their types, their names, and amounts of memory."""

from __future__ import annotations

import ast
import difflib
import os
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

OTHER_NAMES = {
    "alpha": "lambda_alpha mix_alpha mixing_alpha mixup_alpha cutmix_alpha beta",
    "amp": "amp_dtype bf16 dtype fp16 half mixed_precision precision",
    "batch_size": "b batch batchsize bs mini_batch_size per_device_train_batch_size train_batch_size",
    "cache": "cache_dir",
    "checkpoint_steps": "save_every save_interval save_steps",
    "checkpoints_kept": "max_checkpoints save_total_limit",
    "clip_grad": "clip clip_norm grad_clip gradient_clip_val max_grad_norm",
    "compile": "torch_compile torchcompile",
    "config": "c cfg config_file",
    "deterministic": "benchmark cudnn_benchmark use_deterministic_algorithms",
    "device": "cuda gpu gpu_id gpus",
    "ema_decay": "ema model_ema model_ema_decay",
    "epochs": "e epoch max_epochs n_epochs num_epochs num_train_epochs",
    "eval_batch_size": "eval_bs per_device_eval_batch_size test_batch_size val_batch_size validation_batch_size",
    "flip": "hflip horizontal_flip",
    "freeze": "freeze_backbone freeze_layers",
    "grad_accum_steps": "accum accum_iter accumulation_steps grad_accum gradient_accumulation_steps",
    "head_lr_multiplier": "head_lr head_lr_mult lr_mult",
    "image_size": "crop_size im_size image_res img img_size imgsz input_size res resolution size",
    "label_smoothing": "label_smooth label_smoothing_factor ls smoothing",
    "lam": "lambda lam_fixed fixed_lam",
    "layer_decay": "layer_lr_decay lr_layer_decay",
    "loggers": "log_wandb logger report_to tensorboard wandb",
    "lr": "base_lr blr learn_rate learning_rate lr0",
    "memory_budget": "max_memory memory memory_limit",
    "mix_probability": "mix_prob mixup_prob mixup_probability",
    "background": "background_color bg",
    "model_args": "model_kwargs",
    "model": "a arch architecture backbone m model_name model_name_or_path net network",
    "optimizer": "opt optim optimiser",
    "output": "experiment log_dir o out out_dir output_dir run_dir save_dir save_path work_dir workdir",
    "patience": "early_stopping early_stopping_patience",
    "recipe": "preset",
    "resume": "resume_from resume_from_checkpoint",
    "schedule": "lr_policy lr_schedule lr_scheduler lr_scheduler_type sched scheduler",
    "seed": "manual_seed random_seed",
    "selection": "strategy",
    "class_weights": "class_weight pos_weight",
    "keep": "save_best load_best load_best_model_at_end restore_best_weights",
    "sampler": "balanced oversample weighted_sampler",
    "shots": "k_shot n_shots num_shots samples_per_class",
    "source": "aux aux_data aux_dataset auxiliary source_data source_dataset",
    "steps": "iterations iters max_iter max_steps num_steps total_steps train_steps",
    "target": "d data data_dir data_path dataset dataset_name root target_data target_dataset train_data",
    "test_fraction": "test_ratio test_size test_split",
    "tf32": "allow_tf32 matmul_precision",
    "threads": "cpus dataloader_num_workers j num_threads num_workers nworkers workers",
    "val_fraction": "val_ratio val_size val_split valid_fraction validation_split",
    "val_interval": "eval_every eval_interval val_every",
    "warmup_epochs": "warm_up warmup",
    "weight_decay": "l2 wd",
    "weights": "checkpoint ckpt init init_checkpoint initial_checkpoint pretrained pretrained_weights",
}
"""What other programs call our settings and flags."""

WAYS = {
    "anchor": "regularizer l2sp has taken its place",
    **dict.fromkeys(
        ("drop_path", "drop_path_rate", "drop_rate", "dropout", "global_pool", "in_chans"),
        "model_args gives the network its arguments: --model-args drop_path_rate=0.1",
    ),
    "cutmix": "method cutmix pastes boxes, and alpha shapes their areas",
    "eval": "the command evaluate tests a trained network",
    "evaluate": "the command evaluate tests a trained network",
    "find_lr": "the command find-lr suggests a learning rate",
    "local_rank": "torchrun tells each process its rank by an environment variable",
    "mixup": "method mixup mixes images, and alpha shapes their weights",
    "nesterov": "sgd's momentum always is Nesterov's",
    "num_classes": "the classes are those of the target",
    "recipe": "a comparison takes recipes as methods: --methods NAME, or 'recipe: NAME' in a method's row",
    "rectangle_probability": "method xmixup blends images, method xcutmix pastes boxes",
    "train_dir": "target is one folder with train/, val/ and test/ in it",
    "val_dir": "target is one folder with train/, val/ and test/ in it",
    "warmup_steps": "warmup_epochs counts epochs, and takes fractions of one",
    "world_size": "torchrun starts several processes",
}
"""What to do instead, for names that stand for no one setting."""

PATHS = {
    *("target", "source", "model", "weights", "selection_file", "class_weights", "cache", "output"),
    *("images", "shards", "file", "results", "targets", "data", "markdown"),
}
"""Settings, and options of commands, that are paths, or may be."""

_KIND = re.compile(r"(torchvision:[^:]*:|hf:|local-dir:|file://)?")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")

_MEANT = {other: name for name, others in OTHER_NAMES.items() for other in others.split()}


def meant(name: str, known: Collection[str]) -> str | None:
    """The setting that an unknown name probably means: by a table of other programs' names, or the most similar."""
    name = name.lower().replace("-", "_")
    if _MEANT.get(name) in known:
        return _MEANT[name]
    close = difflib.get_close_matches(name, known, n=1)
    return close[0] if close and name not in WAYS else None


def way(name: str) -> str:
    """The end of a message on an unknown name that stands for no known one: what to do instead, or nothing."""
    name = name.lower().replace("-", "_")
    return f"; {WAYS[name]}" if name in WAYS else ""


def check_names(where: str, names: Iterable[str], known: Collection[str], error: type[Exception] = ValueError) -> None:
    """Raises ValueError, or another error, for a name that is no setting, and says which one may be meant."""
    for name in names:
        if name in known:
            continue
        if near := meant(name, known):
            raise error(f"{where}: {name} is no setting; did you mean {near}?")
        raise error(f"{where}: {name} is no setting{way(name)}")


def public_url(url: str) -> str:
    """A URL without what may be secret: a password and, of http:// and https://, the query."""
    chain, mark, rest = url.rpartition("://")
    if not mark:
        return url
    is_http = chain.rpartition("::")[2].lower() in ("http", "https")  # simplecache::https://...
    host, slash, path = rest.partition("/")
    if is_http:
        path = path.partition("?")[0].partition("#")[0]
    # hf://datasets/ID@COMMIT has its @ behind the first slash; abfs://CONTAINER@ACCOUNT has no password.
    user, _, name = host.rpartition("@")
    host = name if is_http or ":" in user else host
    return f"{chain}://{host.partition('?')[0]}{slash}{path}"


def as_type(name: str, value: Any, hint: Any) -> Any:
    """Converts a value to a setting's type; in paths, ``~`` and variables are expanded.

    Raises ValueError, which names the setting, where that cannot be.
    """
    for option in options(hint):
        try:
            converted = _as_option(value, option)
        except ValueError:
            continue
        if name in PATHS and isinstance(converted, list):
            return [expanded(name, one) for one in converted]
        return expanded(name, converted) if name in PATHS and isinstance(converted, str) else converted
    for option in options(hint):
        if typing.get_origin(option) is list and isinstance(value, list | tuple):
            for item in value:
                as_type(name, item, typing.get_args(option)[0])  # names the item that does not fit
    raise ValueError(f"{name}: expected {_kinds(hint)}, got {value!r}")


def expanded(name: str, path: str) -> str:
    """A path with the home folder for a leading ``~``, and the values of environment variables for ``$NAME``.

    What tells the kind of a dataset or network, such as ``hf:``, may stand before the path. URLs of other places stay
    as they are. ``name`` is the setting's, for messages.

    Raises ValueError for a text without a path, and for a variable that is not set or a user who is not known, unless a
    file or folder really has this name.
    """
    if not path.strip():
        raise ValueError(f"{name}: expected a path or a name, got {path!r}, as of a variable that is empty")
    kind, rest = _KIND.match(path)[0], _KIND.sub("", path)  # type: ignore[index]  # it matches the empty text, too
    if "://" in rest:
        return path
    unset = [one for one in map("".join, _VARIABLE.findall(rest)) if one not in os.environ]
    if unset and not os.path.exists(rest):
        raise ValueError(f"{name}: {path}: the environment variable {unset[0]} is not set")
    full = os.path.expanduser(rest)
    if full.startswith("~") and "/" in full and not os.path.exists(rest.partition("/")[0]):
        raise ValueError(f"{name}: {path}: the user {rest.partition('/')[0][1:]} is not known")
    return kind + os.path.expandvars(full)


def from_text(text: str, hint: Any) -> Any:
    """A flag's text as a value of a setting's type, where it is one; otherwise the text, which as_type refuses."""
    for option in options(hint):
        if option is types.NoneType and text == "None":
            return None
        if option is str or (typing.get_origin(option) is Literal and text in typing.get_args(option)):
            return text
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
    return text


def options(hint: Any) -> tuple[Any, ...]:
    """The types that a type hint allows, None first."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return (hint,)
    return tuple(sorted(typing.get_args(hint), key=lambda option: option is not types.NoneType))


def _as_option(value: Any, option: Any) -> Any:
    """Converts a value to one type. Raises ValueError where that cannot be."""
    if typing.get_origin(option) is list and isinstance(value, list | tuple) and value:
        (item,) = typing.get_args(option)
        return [_as_option(one, item) for one in value]
    if option == dict[str, Any] and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(one) for key, one in value.items()}
    if typing.get_origin(option) is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _as_option(one, typing.get_args(option)[1]) for key, one in value.items()}
    if typing.get_origin(option) is Literal and value in typing.get_args(option):
        return value
    if option is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    # YAML reads 1e-4, which has no point, as text.
    if option is float and isinstance(value, int | str) and not isinstance(value, bool):
        return float(value)
    is_number_or_text = option in (bool, float, str, types.NoneType) or (option is int and not isinstance(value, bool))
    if is_number_or_text and isinstance(value, option):
        return value
    raise ValueError


def _plain(value: Any) -> Any:
    """A value as YAML keeps it: a number, a text, true, false, nothing, or a list of these. ValueError for others."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError


def from_pairs(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """What NAME=VALUE texts say, values as Python writes them, or else texts.

    Raises ValueError, which begins with the setting's name, for other texts and a name that comes twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier() or "=" in value:
            raise ValueError(f"{name}: expected NAME=VALUE, with spaces between several, got {text!r}")
        if key in found:
            raise ValueError(f"{name}: expected each name once, got {key} twice")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = {"true": True, "false": False}.get(value, value)
    return found


def _kinds(hint: Any) -> str:
    """What a type hint allows, in words."""
    one = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    several = {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}
    kinds = []
    for option in options(hint):
        if typing.get_origin(option) is Literal:
            choices = typing.get_args(option)
            kinds.append(("one of " if len(choices) > 1 else "") + ", ".join(choices))
        elif typing.get_origin(option) is list:
            (item,) = typing.get_args(option)
            kinds.append(several.get(item) or f"a list of {', '.join(typing.get_args(item))}")
        elif typing.get_origin(option) is dict:
            values = "numbers" if typing.get_args(option)[1] is float else "numbers, texts, true or false, or lists"
            kinds.append(f"a mapping of names to {values}")
        elif option is not types.NoneType:
            kinds.append(one[option])
    return ", or ".join(kinds)


DEFAULT_MAX_PIXELS = 178_956_970
"""Pillow's own limit: twice as many pixels as fit in a quarter of a GiB, with three bytes each."""


def color(name: str, text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour's name as in CSS, or of #RRGGBB.

    Raises ValueError, which names the setting, for other texts.
    """
    from PIL import ImageColor

    expected = f"{name}: expected a colour such as white or #808080, got {text!r}"
    try:
        found = ImageColor.getrgb(text)
    except ValueError:
        raise ValueError(expected) from None
    if len(found) != 3:  # a fourth value is a transparency
        raise ValueError(expected)
    return found


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_NAMES = {10: "KiB", 20: "MiB", 30: "GiB"}


def parse_bytes(text: str) -> int:
    """Bytes of an amount such as 4GiB, 500MB or 1.5G. Raises ValueError for other texts."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*((?:[KMGT]I?)?)B?\s*", text.upper())
    if not match:
        raise ValueError(f"expected an amount such as 4GiB or 500MB, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def format_bytes(count: int) -> str:
    """A number of bytes as text, in KiB, MiB or GiB."""
    unit = next((unit for unit in (30, 20) if count >= 2**unit), 10)
    return f"{count / 2**unit:.1f} {_NAMES[unit]}"
