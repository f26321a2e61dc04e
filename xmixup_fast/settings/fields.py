"""Settings: everything a run can be told, with its default, checked once."""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from ..runtime.files import default_cache
from .checks import check
from .values import as_type, public_url


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one training run.

    Raises TypeError for an unknown or missing name, and ValueError, which names the setting, for a value of the wrong
    type or out of its range.
    """

    target: str
    """Images to learn: a folder of class folders, directly or under train/, val/ and test/; a table (.csv, .tsv,
    .parquet) with the columns path, label and perhaps split; WebDataset shards (a-{000..012}.tar, a/*.tar);
    torchvision:NAME[:ROOT]; or hf:NAME[:CONFIG]."""
    source: str | list[str] | None = None
    """Auxiliary images, likewise, or several such datasets; or a NAME that xmixup sources lists, or a URL. xmixup,
    xcutmix, cotrain and seqtrain need them, and take tiny-imagenet if none is given. To cotuning their classes tell
    which ones of the pretrained classifier it uses; all of them without a source."""
    source_images: int = 100
    """Images of each chosen class that are fetched from a source that is elsewhere."""
    probe_images: int | None = None
    """Images of each class that are fetched from a source that is elsewhere where the selection has to look at the
    source; it stops if not given."""
    fetch_anyway: bool = False
    """Fetch from a source whose chosen images cannot be had without many others, however much that is."""
    yes: bool = False
    """Download without asking."""
    model: str = "resnet50"
    """Network, by its timm name; or hf-hub:ID, of the Hugging Face Hub, or local-dir:FOLDER, as timm saves one."""
    weights: str = "timm"
    """Where the network starts: timm (download, or what the Hub or folder holds), pip (a package of ImageNet weights),
    none (random), a FILE with a state dict, as timm reads it, or a RUN's folder. Target classes that a run has learnt
    keep their rows of its head."""
    weights_classes: str | None = None
    """Which classes the outputs of the weights' classifier stand for, where the weights do not say it: imagenet-1k, or
    a FILE with a name for each output, one a line or as a JSON list. Where there are 1,000, they are taken for
    ImageNet's if not given."""
    model_args: dict[str, Any] | None = None
    """Further arguments of the network, as timm takes them: drop_path_rate=0.1 on the command line, a mapping in YAML
    and Python."""
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
    ] = "xmixup"
    """How to train."""
    epochs: int = 30
    """Passes over the training images."""
    steps: int | None = None
    """Training steps, instead of epochs."""
    classes: Literal["outer", "inner"] | None = None
    """Which folders of target and source are the classes, where all class folders hold the same folders: the outer or
    the inner ones. Where one folder is named like a split beside others, both take it for a class, too."""
    image_field: str | None = None
    """Field of the images in tar shards, such as input for 0001.input.jpg, where samples have several images."""
    shots: int | None = None
    """Training images per class; all of them if not given."""
    batch_size: int = 48
    """Target images per step."""
    grad_accum_steps: int | None = None
    """Equal parts of a batch that go through the network one after the other, to save memory. Networks with batch
    normalisation see other statistics then."""
    eval_batch_size: int | None = None
    """Images at a time in validation and test, in each process: what is computed takes less memory there than in
    training, but for the batch itself. Four times what goes through the network at once in training if not given."""
    amp: Literal["bf16", "fp16"] | None = None
    """16-bit arithmetic where it is safe in training steps: bfloat16, or float16 with a loss scale; float32 throughout
    if not given. All else (selection, evaluation, weights) is float32."""
    ema_decay: float | None = None
    """Validate, test and save an exponential moving average of the weights, with this decay; it grows from zero over
    the first steps."""
    compile: bool = False
    """Compile the training step's forward and loss with torch.compile, which takes a minute at the start."""
    cuda_graph: bool = False
    """Replay forward, backward and, but for fp16, the update of the weights as one CUDA graph, which spares the host
    their launches; not while DALI decodes streamed images on the GPU."""
    deterministic: bool = True
    """Let cuDNN take kernels alone that give the same bits each time; else those that it measures to be the fastest for
    each shape of its input."""
    tf32: Literal["convolutions", "all", "none"] = "convolutions"
    """What a GPU computes in TF32, with factors of 11 bits, where it would be in float32: convolutions, as PyTorch has
    it, or matrix products, too (all), or nothing (none)."""
    lr: float = 0.01
    """Learning rate of pretrained weights, at its highest."""
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """How the learning rate falls over the run: to zero along a cosine or a line, to a tenth after half of the steps
    and a hundredth after three quarters (step), or not at all."""
    warmup_epochs: float = 0.0
    """Epochs, or a fraction of one, over which the learning rate first rises from zero."""
    head_lr_multiplier: float = 10.0
    """Learning rate of new heads, in multiples of the pretrained weights'."""
    head_init: Literal["fresh", "source", "probe"] = "fresh"
    """How the target head starts, but for classes that weights of a run know: with random weights (fresh); from the
    pretrained classifier's rows, weighted by its mean prediction for the class (source); or as a linear probe, which is
    logistic regression on the pretrained features of the training images (probe)."""
    refit_head: bool = False
    """After training, fit the target head anew by logistic regression on the features of unmixed training images."""
    layer_decay: float | None = None
    """Learning rate of each pretrained layer, as timm numbers them, in multiples of the next one's."""
    freeze: int | Literal["backbone"] | None = None
    """What not to train: all but new heads (backbone), or timm's first N groups of layers: the stem, then stages or
    blocks. Frozen batch normalisation keeps its statistics."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, or AdamW, which wants a far smaller learning rate."""
    momentum: float = 0.9
    """Nesterov momentum of sgd."""
    weight_decay: float = 1e-4
    """L2 penalty of every weight, decoupled from the gradient with adamw; not used with a regularizer."""
    regularizer: Literal["none", "l2sp"] = "none"
    """A penalty of the weights in place of weight decay, with any method. l2sp draws pretrained weights to where they
    started, and the weights of new heads to zero."""
    l2sp_alpha: float = 0.01
    """l2sp: penalty of the distance of pretrained weights from their start (0.01 in the code of DELTA's authors)."""
    l2sp_beta: float = 0.01
    """l2sp: penalty of the weights of new heads (0.01 in the paper)."""
    no_norm_decay: bool = False
    """No weight decay of biases, normalisation layers and what else timm spares."""
    clip_grad: float | None = None
    """Largest norm of the gradient of all weights together; a larger one is scaled down to it."""
    alpha: float = 0.2
    """Mixing weights are drawn from Beta(alpha, alpha)."""
    fold: bool = True
    """Replace a mixing weight by the larger of it and its complement, so that the target image dominates."""
    lam: float | None = None
    """A mixing weight of the target image that is the same for all samples, in place of drawn ones."""
    lam_per: Literal["sample", "batch"] = "sample"
    """Draw a mixing weight for each sample, or one for the batch."""
    mix_probability: float = 1.0
    """Probability that a sample (or a batch, see lam-per) is mixed at all."""
    unmixed_share: float = 0.0
    """Share of the run, at its end, in which no image is mixed."""
    keep_contrast: bool = False
    """Divide the normalised blend of two images by sqrt(lam^2 + (1 - lam)^2), so that its pixels vary as those of one
    image do."""
    renew_batch_norm: bool = False
    """After the last step, measure the statistics of batch normalisation anew, on unmixed training images."""
    source_weight: float = 1.0
    """Weight of the loss on source classes."""
    source_head: Literal["classifier", "fresh", "frozen"] = "classifier"
    """Where the source head starts: from the pretrained classifier as far as it knows the classes (classifier), so too,
    and it stays as it is (frozen), or from random weights, at the learning rate of new heads (fresh)."""
    source_accuracy: bool = False
    """Measure before and after training which part of the source's test images, or else validation images, the source
    head recognises; the pretrained classifier's, where the method trains none."""
    label_smoothing: float = 0.0
    """Label smoothing of every cross entropy with a class as its label."""
    class_weights: str | dict[str, float] | None = None
    """Weights of the target's classes in the loss: balanced, which is inverse to their numbers of training images, or a
    YAML or JSON FILE of a weight for each class; in Python and in YAML also these weights themselves."""
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """Which images an epoch shows: each as often as the others (shuffle), or each class as often (balanced), of which
    small ones come several times."""
    delta_alpha: float = 1.0
    """delta: weight of the difference of feature maps, relative to their size."""
    bss_eta: float = 1e-3
    """bss: weight of the smallest squared singular values (0.001 in the paper)."""
    bss_k: int = 1
    """bss: how many singular values (1 in the paper)."""
    rifle_periods: int = 2
    """rifle: equal parts of a run, of which all but the first begin with a new head (2 in the authors' script)."""
    cotuning_weight: float = 2.3
    """cotuning: weight of the loss on source classes (2.3 in the authors' code)."""
    lwf_weight: float = 1.0
    """lwf: weight of the distance from the pretrained network's predictions (1 in the paper)."""
    lwf_temperature: float = 2.0
    """lwf: temperature of these predictions (2 in the paper)."""
    stochnorm_p: float = 0.5
    """stochnorm: probability that a channel is normalised by the batch's statistics, not by the moving ones (0.5 in the
    paper)."""
    bituning_weight: float = 1.0
    """bituning: weight of both contrastive losses (1 in the authors' code)."""
    seqtrain_share: float = 0.5
    """seqtrain: steps on auxiliary images before fine-tuning, in multiples of its steps."""
    selection: Literal["prediction", "feature", "transport", "assignment", "sample", "least", "random"] = "prediction"
    """How each target class gets its auxiliary images: from the source classes that the pretrained classifier predicts
    for it (or, where it does not know the source's, those with the most similar predictions), from those with the most
    similar features, or those that get most of its mass by optimal transport of features (transport), from one of its
    own (assignment, see similarity), the single images with the most similar features (sample), or from two controls:
    the least similar classes (least, see similarity), or random ones."""
    similarity: Literal["prediction", "feature"] = "prediction"
    """What assignment of one source class to each target class makes as large as it can be, and least as small."""
    top_k: int = 1
    """Source classes per target class, for selection prediction, feature, transport, least and random."""
    top_images: int = 50
    """Source images per target class, for selection sample."""
    selection_file: str | None = None
    """selection.json of another run or of xmixup select, to use instead of selecting."""
    image_size: int | None = None
    """Height and width of the crops that the network sees, in pixels; those that it was made for if not given, such as
    224 for resnet50."""
    resize: int | Literal["full"] | None = None
    """Short side at which images are kept, in pixels, or full for their own size; 8/7 of the image size if not
    given."""
    decoder: Literal["auto", "dali", "torchcodec", "torchvision", "pillow"] = "auto"
    """What decodes JPEG files; auto takes the first of these that is installed."""
    background: str = "white"
    """What shows where an image is transparent: a colour's name, or #RRGGBB."""
    bit_range: Literal["auto", "full"] = "full"
    """Which bits of images of 16 bits are kept: the upper 8 of all (full), or the upper 8 of the 8, 10, 12, 14 or 16
    bits that the image uses (auto), as where a camera of 12 bits wrote it."""
    max_pixels: int | None = None
    """Pixels that an image may have; 178956970 if not given. Of larger ones, JPEG files are decoded at 1/2 to 1/8 of
    their size where that is enough for resize, and other files cannot be used."""
    bad_files: Literal["error", "skip"] = "error"
    """What to do where images cannot be decoded: stop before training and list them, or train without them."""
    storage: Literal["auto", "resident", "stream"] = "auto"
    """Where the target's images are: in memory (resident), decoded anew for each step (stream), or in memory as far as
    they fit the memory budget (auto). Auxiliary images are always in memory."""
    memory_budget: str | None = None
    """Memory for images, such as 4GiB; 80 % of what is free on the device if not given."""
    cache: str | None = None
    """Folder that keeps decoded images and what selections saw for later runs, or none; $XMIXUP_CACHE or
    ~/.cache/xmixup_fast if not given."""
    cache_size: str | None = None
    """Upper size of the cache, such as 20GiB: decoded images that have been unused the longest are removed. Images that
    were fetched from elsewhere are not counted, and stay."""
    crop: Literal["random", "resized"] = "random"
    """What training looks at: windows of the image size at random places (random), as in the paper, or windows of
    random size, resized to it (resized), as torchvision's RandomResizedCrop and timm take them."""
    scale: list[float] | None = None
    """Least and greatest area of a resized crop, as a share of the image's; 0.08 1 if not given."""
    ratio: list[float] | None = None
    """Least and greatest width over height of a resized crop; 3/4 and 4/3 if not given."""
    flip: bool = True
    """Mirror training images left to right, half of the time."""
    color_jitter: float | list[float] | None = None
    """Random changes of brightness, contrast, saturation and perhaps hue, as torchvision's ColorJitter; one number
    stands for the first three."""
    color_jitter_prob: float = 1.0
    """Probability that an image's colours are changed."""
    erase: float = 0.0
    """Probability that a random rectangle of an image is erased (timm's reprob)."""
    erase_fill: Literal["mean", "noise"] = "mean"
    """What erased rectangles are filled with: the mean colour, or noise (timm's remode pixel)."""
    antialias: bool = False
    """Filter resized crops that are larger than the image size, instead of interpolating two of their pixels."""
    val_fraction: float = 0.2
    """Part of the training images to validate on, where the target has no validation split."""
    val_fold: str | None = None
    """Cross-validation: which part to validate on, such as 2/5, the second of five equal parts of each class, in place
    of val_fraction. The seed deals the images."""
    test_fraction: float = 0.2
    """Part of the training images to test on, where the target has no test split; cut before the validation split."""
    split_by: Literal["content", "order"] = "content"
    """What decides which images are cut for validation and test, besides the seed: their content, so that a few new
    images move few others; or their order by name, as in the stored comparisons."""
    group_by: str | None = None
    """Column of the target's table that says which images belong together, such as patient or camera: those go into one
    split."""
    group_regex: str | None = None
    """Regular expression that finds the same in the names of files, such as 'patient\\d+'; its groups, where it has
    some. With a slash in it, it looks at paths below the dataset's folder."""
    duplicates: Literal["warn", "error", "drop"] = "warn"
    """What to do where images have the same bytes: say so, stop, or leave copies out of training, and images with two
    labels out of everything."""
    near_duplicates: bool = False
    """Look for images that are nearly equal, by a perceptual hash, and say how many there are."""
    val_interval: int = 1
    """Epochs from one validation to the next; the last step is always followed by one."""
    patience: int | None = None
    """Stop after so many validations in a row that were no better than the best. The schedule still spans the whole
    length."""
    keep: Literal["best", "last"] = "best"
    """Which weights to test and save: of the best validation, the later one of equals, or of the last step."""
    test: Literal["run", "hold", "none"] = "run"
    """Test at the end (run); put test images aside, but do not look at them, as it has to be while settings are chosen
    (hold); or cut none, and train on them (none, or --no-test)."""
    report: bool = True
    """Write report.html at the end: curves, selection, confusion matrix, the images with the highest loss, settings."""
    loggers: Literal["tensorboard", "wandb"] | list[Literal["tensorboard", "wandb"]] | None = None
    """Where metrics go besides the run folder's metrics.jsonl and metrics.csv: tensorboard, wandb (Weights & Biases),
    or both."""
    seed: int = 0
    """Seed of everything random: splits, order, crops, mixing, new heads."""
    device: str = "auto"
    """Where to train: cpu, cuda or cuda:1; auto takes a GPU where there is one. Each process that torchrun starts takes
    a GPU of its own."""
    threads: int | None = None
    """CPU threads; if not given, PyTorch's default, or what a CPU quota feeds if that is less."""
    resume: Literal["never", "auto"] = "never"
    """Go on with the run that the output folder holds, or begin one where it holds none (auto)."""
    data_changed: Literal["error", "ignore"] = "error"
    """What to do where the target has changed since the run that is resumed began: stop, or go on with the run's own
    images."""
    checkpoint_minutes: float = 10.0
    """Minutes from one checkpoint to the next; there is one at the end, too."""
    checkpoint_steps: int | None = None
    """Steps from one checkpoint to the next, besides."""
    checkpoints_kept: int = 2
    """How many checkpoints stay in the run folder."""
    profile: bool = False
    """Profile some steps: print where their time goes, and keep the profiler's trace in the run folder."""
    output: str | None = None
    """Run folder; runs/TIME-METHOD-TARGET-sSEED-RANDOM if not given."""

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            object.__setattr__(self, name, as_type(name, getattr(self, name), hint))
        check(self)

    @property
    def compared(self) -> str:
        """What the selection compares classes by: prediction, feature or transport; or sample or random."""
        return self.similarity if self.selection in ("assignment", "least") else self.selection

    @property
    def crop_size(self) -> int:
        """The image size in pixels, once it is known. Raises ValueError before: a run takes the network's own size."""
        if self.image_size is None:
            raise ValueError("image_size: expected a number of pixels, as nothing has asked the network for its own")
        return self.image_size

    @property
    def short_side(self) -> int | None:
        """Short side at which images are kept, in pixels; None for their own size. Raises as :attr:`crop_size`."""
        return None if self.resize == "full" else self.resize or round(self.crop_size * 8 / 7)

    @property
    def reading(self) -> dict[str, Any]:
        """What images become where their files leave it open, and how large they may be, by name."""
        return {name: getattr(self, name) for name in ("background", "bit_range", "max_pixels")}

    @property
    def fold_of(self) -> tuple[int, int] | None:
        """The part to validate on, counted from 0, and of how many; None without ``val_fold``."""
        if self.val_fold is None:
            return None
        part, _, parts = self.val_fold.partition("/")
        return int(part) - 1, int(parts)

    @property
    def augmentation(self) -> dict[str, Any]:
        """The keyword arguments of :meth:`xmixup_fast.Augmentation.of`."""
        names = ("crop", "scale", "ratio", "color_jitter", "color_jitter_prob", "erase", "erase_fill", "antialias")
        return {name: getattr(self, name) for name in names}

    @property
    def cache_folder(self) -> Path | None:
        """The folder that ``cache`` stands for; None where nothing is kept."""
        return None if self.cache == "none" else Path(self.cache or default_cache())

    def without_secrets(self) -> Settings:
        """The settings with the source's URLs as they may be kept and shown: without passwords and signatures."""
        if self.source is None or isinstance(self.source, str):
            return replace(self, source=self.source and public_url(self.source))
        return replace(self, source=list(map(public_url, self.source)))

    def to_yaml(self) -> str:
        """All settings as YAML text, which :func:`read` reads; without consent to downloads, given each time."""
        values = asdict(self.without_secrets())
        del values["yes"]
        return yaml.safe_dump(values, sort_keys=False)


@cache
def _hints() -> dict[str, Any]:
    """The types of the settings: a comparison makes thousands of objects, and each reading takes a millisecond."""
    return typing.get_type_hints(Settings)
