"""The manifest of a published version: the contract between training and service.

Knows nothing about torch, HTTP or where versions are stored.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from service.contract.variants import FormName

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
"""A model's or an alias's name. It is a path segment, so it can hold no separator."""

MOST_VERSIONS = 999_999_999
"""The highest number of a version, and of a manifest's other counts what 64 bits can hold: JSON knows no bounds."""

Count = Annotated[int, Field(gt=0, lt=2**63)]

Finite32 = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]
"""A number that float32 can hold."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


MOST_CHARACTERS = 1000
"""In the name of a class or a feature."""

Style = Literal["photo", "mnist"]
"""Whether a picture is one of things, or of ink."""

Fit = Literal["crop", "letterbox", "stretch"]
"""How a picture of other proportions is fitted into a model's input."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artifact(_Value):
    """The file that holds the network."""

    sha256: Sha256
    size_bytes: Count
    format: Literal["torchscript"] = "torchscript"


class ImageInput(_Value):
    """uint8 [N, C, H, W], as the exported graph takes it."""

    kind: Literal["image"] = "image"
    dtype: Literal["uint8"] = "uint8"
    shape: tuple[Count, Count, Count]
    colour: Literal["grey", "rgb"]
    style: Style = Field(
        "photo",
        description="How a picture of another size becomes the input: 'photo' resizes it; 'mnist' finds light or "
        "dark ink, crops it and centres it by mass, as MNIST was made.",
    )
    fit: Fit = Field(
        "crop",
        description="How a photo of other proportions becomes the input: 'crop' cuts it to the middle, 'letterbox' "
        "puts grey bars beside it, 'stretch' changes its proportions.",
    )

    @model_validator(mode="after")
    def _channels_match_colour(self) -> Self:
        channels = {"grey": 1, "rgb": 3}[self.colour]
        if self.shape[0] != channels:
            raise ValueError(f"a {self.colour} input has {channels} as its first size. Given shape: {self.shape}")
        if self.style == "mnist" and self.colour != "grey":
            raise ValueError(f"an input of style mnist must be grey: it is ink, not a picture. Given: {self.colour}")
        return self


class FeatureInput(_Value):
    """float32 [N, F]."""

    kind: Literal["features"] = "features"
    dtype: Literal["float32"] = "float32"
    shape: tuple[Count]
    columns: tuple[Annotated[str, Field(max_length=MOST_CHARACTERS)], ...] | None = Field(
        None, description="The names of the features, where their table has any."
    )

    @model_validator(mode="after")
    def _each_feature_has_a_name(self) -> Self:
        if self.columns is not None and len(self.columns) != self.shape[0]:
            raise ValueError(f"columns must be as many as features, {self.shape[0]}. Given: {len(self.columns)}")
        return self


InputSpec = Annotated[ImageInput | FeatureInput, Field(discriminator="kind")]

BYTES_PER_ELEMENT = {"uint8": 1, "float32": 4}


def input_bytes(spec: ImageInput | FeatureInput) -> int:
    """Return the size in bytes of one input."""
    return math.prod(spec.shape) * BYTES_PER_ELEMENT[spec.dtype]


class Metric(_Value):
    """One number and the data that it was measured on, e.g. accuracy on mnist/test, n=10,000."""

    name: str
    value: float
    data: str
    n: Count


class GoldenSample(_Value):
    """A few inputs and the logits that a loaded model must give for them."""

    inputs: str = Field(description="Base64 of the inputs, back to back, little-endian.")
    logits: tuple[tuple[Finite32, ...], ...] = Field(min_length=1)
    tolerance: float = Field(1e-3, gt=0, le=1, description="Largest absolute difference of a logit that is accepted.")
    scores: tuple[Finite32, ...] = Field(
        (), description="Outlier scores of the same inputs, for an artifact that has any."
    )

    def raw_inputs(self) -> bytes:
        return base64.b64decode(self.inputs)


class FormEvidence(_Value):
    """How the classes in a half-precision form compare with those of the published form, on one split."""

    form: FormName
    agreement: float = Field(ge=0, le=1, description="Share of the inputs that get the class of the published form.")
    accuracy_difference: float = Field(ge=-1, le=1, description="Accuracy in this form minus that in the published.")
    outlier_agreement: float | None = Field(
        None, ge=0, le=1, description="Share of the inputs that are outliers in both forms or in neither."
    )
    data: str
    n: int = Field(gt=0)


class OutlierScores(_Value):
    """The artifact's second output: how little an input resembles the training data."""

    threshold: float = Field(description="An input with a higher score is an outlier.")
    quantiles: tuple[float, ...] = Field(
        min_length=2, description="Scores of held-out inputs in ascending order, at equal steps up to the largest."
    )
    knows_blank: bool = Field(
        False, description="Whether pictures of a single colour were training data. If not, one is an outlier unseen."
    )
    data: str
    n: int = Field(gt=0)

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> Self:
        if not all(map(math.isfinite, self.quantiles)) or list(self.quantiles) != sorted(self.quantiles):
            raise ValueError("outliers.quantiles must be finite and ascend")
        return self


LEAST_COVERAGE, MOST_COVERAGE, COVERAGE_STEPS = 0.5, 0.999, 500
"""Prediction sets are for coverages of 0.500, 0.501, ... 0.999."""


class PredictionSets(_Value):
    """The classes that a set must hold to contain the truth as often as asked: those that are probable enough.

    Split conformal prediction: Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded error
    levels", JASA 2019 (https://arxiv.org/abs/1609.00451).
    """

    floors: tuple[float, ...] = Field(
        min_length=COVERAGE_STEPS,
        max_length=COVERAGE_STEPS,
        description="The least probability of a class in the set, for coverages of 0.500, 0.501, ... 0.999.",
    )
    data: str
    n: int = Field(gt=0)

    def floor(self, coverage: float) -> float:
        """Return the least probability of a class in a set for `coverage`, from 0.5 to 0.999."""
        return self.floors[math.ceil(round((coverage - LEAST_COVERAGE) * 2 * COVERAGE_STEPS, 6))]


MOST_BINS = 32
"""A model with more classes has several in a bin: class 32 is counted with class 0."""


MOST_WINDOW = 1000


class Distribution(_Value):
    """The number of held-out inputs in each of several bins, and how far a window of such inputs may lie from it."""

    edges: tuple[float, ...] = Field(
        (), max_length=MOST_BINS - 1, description="The largest value in each bin but the last; none of classes."
    )
    counts: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(min_length=2, max_length=MOST_BINS)
    limit: float = Field(gt=0, description="The distance from `counts` that an ordinary window has once in thousands.")

    @model_validator(mode="after")
    def _edges_part_the_counts(self) -> Self:
        if self.edges and len(self.edges) != len(self.counts) - 1:
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) - 1} edges. Given: {len(self.edges)}")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must ascend")
        if not sum(self.counts):
            raise ValueError("counts must count something")
        return self


class Distributions(_Value):
    """The predictions for held-out inputs, with which a service compares those that it makes."""

    window: int = Field(ge=1, le=MOST_WINDOW, description="Inputs that are compared together.")
    classes: Distribution = Field(description="The predicted classes.")
    confidences: Distribution = Field(description="The calibrated probabilities of the predicted classes.")
    scores: Distribution | None = Field(None, description="The outlier scores, of an artifact that has any.")
    data: str
    n: Count

    @model_validator(mode="after")
    def _values_have_edges(self) -> Self:
        if self.classes.edges or not self.confidences.edges or (self.scores and not self.scores.edges):
            raise ValueError("confidences and scores must have edges, and classes none")
        return self


class ForeignEvidence(_Value):
    """How well outlier scores tell pictures of one foreign kind from those of a test split."""

    kind: str
    auroc: float = Field(ge=0, le=1)
    fpr95: float = Field(ge=0, le=1, description="Share of the test split flagged where 95 % of the foreign ones are.")
    flagged: float = Field(ge=0, le=1, description="Share of the foreign ones above the published threshold.")
    data: str
    n: Count


def _within_64_bits(value: Any) -> Any:
    """Return a JSON value, all of whose numbers must be finite and its whole ones of 64 bits, as orjson takes them."""
    if isinstance(value, dict):
        for inner in value.values():
            _within_64_bits(inner)
    elif isinstance(value, list):
        for inner in value:
            _within_64_bits(inner)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number must have at most 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number must be finite")
    return value


class Provenance(_Value):
    """Where a version came from; enough to train it once more."""

    recipe: str
    hyper_parameters: Annotated[dict[str, JsonValue], AfterValidator(_within_64_bits)]
    dataset: str
    dataset_digest: str
    seed: int = Field(ge=-(2**63), lt=2**63)
    commit: str = Field(description="Commit of this repository, '-dirty' when files differed, or 'unknown'.")
    torch_version: str
    device: str
    seconds: float = Field(ge=0)


class ModelManifest(_Value):
    """Everything that a reader of the registry needs to know about one version of one model."""

    schema_version: Literal[1, 2] = Field(1, description="2: the artifact returns logits and outlier scores.")
    name: Name
    version: int = Field(ge=1, le=MOST_VERSIONS)
    created: AwareDatetime
    artifact: Artifact
    input: InputSpec
    classes: tuple[Annotated[str, Field(max_length=MOST_CHARACTERS)], ...] = Field(min_length=2)
    temperature: float = Field(
        1.0, ge=0.001, le=1000, description="Probabilities are softmax(logits / temperature). Training gives 0.1 to 10."
    )
    metrics: tuple[Metric, ...] = ()
    golden: GoldenSample
    forms: tuple[FormName, ...] = Field(
        (),
        description="Forms that may serve: in full precision those that gave every input of the test split the "
        "published class, in half precision those whose evidence sufficed.",
    )
    half_precision: tuple[FormEvidence, ...] = Field(
        (), description="Evidence for or against each form in half precision that was measured."
    )
    outliers: OutlierScores | None = None
    foreign: tuple[ForeignEvidence, ...] = ()
    sets: PredictionSets | None = None
    distributions: Distributions | None = None
    provenance: Provenance
    forced: str | None = Field(None, description="Why the gate refused this version, if it was published by force.")

    @model_validator(mode="after")
    def _golden_sample_fits(self) -> Self:
        n = len(self.golden.logits)
        expected = n * input_bytes(self.input)
        try:
            given = len(self.golden.raw_inputs())
        except binascii.Error as error:
            raise ValueError("golden.inputs must be base64") from error
        if given != expected:
            raise ValueError(
                f"golden.inputs must hold {n} inputs of {self.input.shape}, {expected} bytes. Given: {given}"
            )
        for row in self.golden.logits:
            if len(row) != len(self.classes):
                raise ValueError(f"golden.logits must have {len(self.classes)} columns. Given: {len(row)}")
        if (self.schema_version == 2) != (self.outliers is not None):
            raise ValueError("outliers must be there in schema version 2, and only there")
        if len(self.golden.scores) != (n if self.outliers else 0):
            raise ValueError("golden.scores must be one for each input, where the artifact gives scores")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must differ from each other")
        if self.distributions:
            if len(self.distributions.classes.counts) != min(len(self.classes), MOST_BINS):
                raise ValueError("distributions.classes must have a count for each class, or 32")
            if (self.distributions.scores is None) != (self.outliers is None):
                raise ValueError("distributions.scores must be there where the artifact gives scores, and only there")
        return self


def identity(manifest: ModelManifest) -> str:
    """Return a key that changes when a version is republished."""
    return f"{manifest.name}@{manifest.version} {manifest.artifact.sha256} {manifest.created.isoformat()}"


def pack_floats(values: list[float]) -> bytes:
    """Pack values as little-endian float32, as golden inputs of a feature model are stored."""
    return struct.pack(f"<{len(values)}f", *values)
