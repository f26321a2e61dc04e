"""The settings as keyword arguments, for type checkers and editors; made by tests/support/write_kwargs.py."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class SettingsKwargs(TypedDict, total=False):
    """Keyword arguments of :func:`xmixup_fast.fit`, with the names and types of the settings in fields.py."""

    target: str
    source: str | list[str] | None
    source_images: int
    probe_images: int | None
    fetch_anyway: bool
    yes: bool
    model: Any
    weights: Any
    weights_classes: str | None
    model_args: dict[str, Any] | None
    method: Literal[
        "finetune",
        "linear-probe",
        "delta",
        "bss",
        "rifle",
        "stochnorm",
        "bituning",
        "mixup",
        "cutmix",
        "cotuning",
        "lwf",
        "cotrain",
        "seqtrain",
        "xmixup",
        "xcutmix",
    ]
    epochs: int
    steps: int | None
    classes: Literal["outer", "inner"] | None
    image_field: str | None
    shots: int | None
    batch_size: int
    grad_accum_steps: int | None
    eval_batch_size: int | None
    amp: Literal["bf16", "fp16"] | None
    ema_decay: float | None
    compile: bool
    cuda_graph: bool
    deterministic: bool
    tf32: Literal["convolutions", "all", "none"]
    lr: float
    schedule: Literal["cosine", "linear", "step", "constant"]
    warmup_epochs: float
    head_lr_multiplier: float
    head_init: Literal["fresh", "source", "probe"]
    refit_head: bool
    layer_decay: float | None
    freeze: int | Literal["backbone"] | None
    optimizer: Literal["sgd", "adamw"]
    momentum: float
    weight_decay: float
    regularizer: Literal["none", "l2sp"]
    l2sp_alpha: float
    l2sp_beta: float
    no_norm_decay: bool
    clip_grad: float | None
    alpha: float
    fold: bool
    lam: float | None
    lam_per: Literal["sample", "batch"]
    mix_probability: float
    unmixed_share: float
    keep_contrast: bool
    renew_batch_norm: bool
    source_weight: float
    source_head: Literal["classifier", "fresh", "frozen"]
    source_accuracy: bool
    label_smoothing: float
    class_weights: str | dict[str, float] | None
    sampler: Literal["shuffle", "balanced"]
    delta_alpha: float
    bss_eta: float
    bss_k: int
    rifle_periods: int
    cotuning_weight: float
    lwf_weight: float
    lwf_temperature: float
    stochnorm_p: float
    bituning_weight: float
    seqtrain_share: float
    selection: Literal["prediction", "feature", "transport", "assignment", "sample", "least", "random"]
    similarity: Literal["prediction", "feature"]
    top_k: int
    top_images: int
    selection_file: str | None
    image_size: int | None
    resize: int | Literal["full"] | None
    decoder: Literal["auto", "dali", "torchcodec", "torchvision", "pillow"]
    background: str
    bit_range: Literal["auto", "full"]
    max_pixels: int | None
    bad_files: Literal["error", "skip"]
    storage: Literal["auto", "resident", "stream"]
    memory_budget: str | None
    cache: str | None
    cache_size: str | None
    crop: Literal["random", "resized"]
    scale: list[float] | None
    ratio: list[float] | None
    flip: bool
    color_jitter: float | list[float] | None
    color_jitter_prob: float
    erase: float
    erase_fill: Literal["mean", "noise"]
    antialias: bool
    val_fraction: float
    val_fold: str | None
    test_fraction: float
    split_by: Literal["content", "order"]
    group_by: str | None
    group_regex: str | None
    duplicates: Literal["warn", "error", "drop"]
    near_duplicates: bool
    val_interval: int
    patience: int | None
    keep: Literal["best", "last"]
    test: Literal["run", "hold", "none"]
    report: bool
    loggers: Literal["tensorboard", "wandb"] | list[Literal["tensorboard", "wandb"]] | None
    seed: int
    device: str
    threads: int | None
    resume: Literal["never", "auto"]
    data_changed: Literal["error", "ignore"]
    checkpoint_minutes: float
    checkpoint_steps: int | None
    checkpoints_kept: int
    profile: bool
    output: str | None
