"""Names of the forms in which an artifact can be computed. They differ in speed and rounding.

Knows nothing about torch; `service.model.torchscript` computes them.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

FormName = Literal["channels_last", "prepacked", "bfloat16", "float16"]
"""Other ways to compute an artifact than as it was published.

- channels_last: the inputs lie in memory as [N, H, W, C], and so does everything that convolutions make of them.
- prepacked: the weights of convolutions are reordered once for the processor's kernels and steps are fused, by
  torch.jit.optimize_for_inference.
- bfloat16, float16: matrix products and convolutions in half precision (torch.autocast), the latter also channels_last.
"""

FORM_NAMES: tuple[FormName, ...] = get_args(FormName)

HALF: tuple[FormName, ...] = ("bfloat16", "float16")
"""Forms that round to half precision, so that their logits differ from the published ones by more than 1e-3."""


class Form(BaseModel):
    """How a worker computes a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FormName | Literal["published"] = "published"
    threads: int = Field(1, ge=1, description="Of the processor, in one call.")
    device: str = "cpu"
    graphs: bool = Field(False, description="Whether batches are replayed as CUDA graphs.")

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        graphs = ", by graphs" if self.graphs else ""
        return f"{self.name} on {self.device}{threads}{graphs}"
