"""Which settings belong together, in the order in which --help and the documentation show them."""

from __future__ import annotations

GROUPS = {
    "data": (
        "target",
        "source",
        "classes",
        "image_field",
        "shots",
        "val_fraction",
        "test_fraction",
        "split_by",
        "duplicates",
        "near_duplicates",
        "bad_files",
        "image_size",
        "resize",
        "flip",
        "decoder",
        "storage",
        "memory_budget",
        "cache",
    ),
    "network and method": ("model", "weights", "freeze", "method", "regularizer"),
    "selection of auxiliary images": ("selection", "similarity", "top_k", "top_images", "selection_file"),
    "mixing": ("alpha", "fold", "lam_per", "mix_probability", "unmixed_share", "source_weight"),
    "optimisation": (
        "epochs",
        "steps",
        "batch_size",
        "grad_accum_steps",
        "lr",
        "schedule",
        "warmup_epochs",
        "head_lr_multiplier",
        "layer_decay",
        "optimizer",
        "momentum",
        "weight_decay",
        "no_norm_decay",
        "clip_grad",
        "label_smoothing",
        "ema_decay",
    ),
    "validation, test and output": (
        "val_interval",
        "patience",
        "test",
        "output",
        "report",
        "loggers",
        "profile",
        "resume",
        "data_changed",
        "checkpoint_minutes",
        "checkpoint_steps",
        "checkpoints_kept",
    ),
    "machine": ("device", "threads", "seed", "amp", "compile", "cuda_graph"),
}
"""Names of settings by the title of their group."""

METHOD_SETTINGS = {
    "l2sp": ("l2sp_alpha", "l2sp_beta"),
    "delta": ("delta_alpha",),
    "bss": ("bss_eta", "bss_k"),
    "rifle": ("rifle_periods",),
    "cotuning": ("cotuning_weight",),
    "seqtrain": ("seqtrain_share",),
}
"""Names of settings by the one method, or regularizer, that they are for."""

METAVARS = {
    "target": "DATASET",
    "source": "DATASET",
    "model": "NAME",
    "weights": "timm|pip|none|FILE|RUN",
    "selection_file": "FILE",
    "image_field": "FIELD",
    "memory_budget": "SIZE",
    "cache": "DIR",
    "output": "DIR",
    "device": "DEVICE",
}
"""What --help calls the values of settings that are text."""
