"""The models that mmsearch knows by name: their role, size and licence. Facts only; no network, no heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CURATED", "DEFAULT", "READER", "CuratedModel"]

# What `auto` means for search, and the one model that is recommended wherever a decoder is needed: it re-ranks, describes,
# answers and explains.
DEFAULT = "ViT-B-32-256/datacomp_s34b_b86k"
READER = "coca_ViT-L-14/laion2b_s13b_b90k"


@dataclass(frozen=True, kw_only=True)
class CuratedModel:
    """`parameters` counts both towers; `dim` is the width of an embedding; `repo` is where its weights are published.

    `extra_repos` hold what an architecture needs besides weights: a text configuration or a tokenizer.
    """

    name: str
    role: str
    parameters: int
    license: str
    dim: int
    repo: str | None
    notes: str
    extra_repos: tuple[str, ...] = ()


CURATED: tuple[CuratedModel, ...] = (
    CuratedModel(
        name=DEFAULT,
        role="default",
        parameters=151_000_000,
        license="MIT",
        dim=512,
        repo="laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
        notes="the default on a CPU: fast, English",
    ),
    CuratedModel(
        name="ViT-B-32-SigLIP2-256/webli",
        role="accuracy",
        parameters=377_000_000,
        license="Apache-2.0",
        dim=768,
        repo="timm/ViT-B-32-SigLIP2-256",
        notes="more accurate at the speed of the default, many languages, larger text tower",
    ),
    CuratedModel(
        name="PE-Core-L-14-336/meta",
        role="gpu",
        parameters=671_000_000,
        license="Apache-2.0",
        dim=1024,
        repo="timm/PE-Core-L-14-336",
        notes="the most accurate here; wants a GPU",
    ),
    CuratedModel(
        name="xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
        role="multilingual",
        parameters=366_000_000,
        license="MIT",
        dim=512,
        repo="laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
        extra_repos=("xlm-roberta-base",),
        notes="queries in about a hundred languages",
    ),
    CuratedModel(
        name=READER,
        role="reader",
        parameters=638_000_000,
        license="MIT",
        dim=768,
        repo="laion/CoCa-ViT-L-14-laion2B-s13B-b90k",
        notes="re-ranks, describes, answers and explains for an index of any model; searches, too",
    ),
    CuratedModel(
        name="coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k",
        role="captions only",
        parameters=638_000_000,
        license="MIT",
        dim=768,
        repo="laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k",
        notes="captions in the manner of COCO's; fine-tuning cost it its search half",
    ),
    CuratedModel(
        name="MobileCLIP2-S2/dfndr2b",
        role="research only",
        parameters=99_000_000,
        license="Apple AMLR (research only)",
        dim=512,
        repo="timm/MobileCLIP2-S2-OpenCLIP",
        notes="small and fast; its licence allows research only",
    ),
    CuratedModel(
        name="ViT-B-16/dfn2b",
        role="research only",
        parameters=150_000_000,
        license="Apple AMLR (research only)",
        dim=512,
        repo="apple/DFN2B-CLIP-ViT-B-16",
        notes="data filtering networks; its licence allows research only",
    ),
    CuratedModel(
        name="mini",
        role="embedded",
        parameters=35_300_000,
        license="research use",
        dim=256,
        repo=None,
        notes="part of the package: works with no download; small, knows everyday things",
    ),
)


def curated(name: str) -> CuratedModel | None:
    """The entry called `name`, if there is one."""
    return next((model for model in CURATED if model.name == name), None)
