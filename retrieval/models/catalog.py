"""The models that mmsearch knows by name: their role, size and licence. Facts only; no network, no heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CURATED", "DEFAULT", "READER", "CuratedModel"]

# What `auto` means for search, what it means without a network where only that is here, and the one model that is recommended
# wherever a decoder is needed: it re-ranks, describes, answers and explains.
DEFAULT = "ViT-B-32-SigLIP2-256/webli"
DEFAULT_BEFORE = "ViT-B-32-256/datacomp_s34b_b86k"
READER = "coca_ViT-L-14/laion2b_s13b_b90k"

_MANY = "about 100"


@dataclass(frozen=True, kw_only=True)
class CuratedModel:
    """`parameters` counts both towers; `dim` is the width of an embedding; `repo` is where its weights are published.

    `recall` is text to image R@1 on COCO's 5,000 test images in percent, as its makers published it (SigLIP 2, PE) or
    open_clip's tables have it; `cost` is the arithmetic of one image against the default's. Both are None where nothing is
    published.
    """

    name: str
    role: str
    parameters: int
    license: str
    dim: int
    repo: str | None
    notes: str
    languages: str = "English"
    recall: float | None = None
    cost: float | None = None

    @property
    def download(self) -> int:
        """About how many bytes are fetched: four a parameter; none of what is part of the package."""
        return 4 * self.parameters if self.repo is not None else 0


CURATED: tuple[CuratedModel, ...] = (
    CuratedModel(
        name=DEFAULT,
        role="default",
        parameters=377_000_000,
        license="Apache-2.0",
        dim=768,
        repo="timm/ViT-B-32-SigLIP2-256",
        languages=_MANY,
        recall=47.2,
        cost=1,
        notes="what auto takes: as fast as the fastest, in your language, and right more often",
    ),
    CuratedModel(
        name=DEFAULT_BEFORE,
        role="small download",
        parameters=151_000_000,
        license="MIT",
        dim=512,
        repo="laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
        recall=39.9,
        cost=1,
        notes="as fast, for queries in English, where the download matters",
    ),
    CuratedModel(
        name="ViT-B-16-SigLIP2-256/webli",
        role="accuracy",
        parameters=375_000_000,
        license="Apache-2.0",
        dim=768,
        repo="timm/ViT-B-16-SigLIP2-256",
        languages=_MANY,
        recall=53.2,
        cost=4.1,
        notes="sees four times as many details; for a few ten thousand photos, or a night of patience",
    ),
    CuratedModel(
        name="PE-Core-B-16/meta",
        role="accuracy",
        parameters=448_000_000,
        license="Apache-2.0",
        dim=1024,
        repo="timm/PE-Core-B-16",
        recall=50.9,
        cost=3.1,
        notes="three times the work of the default; for queries in English",
    ),
    CuratedModel(
        name="PE-Core-L-14-336/meta",
        role="gpu",
        parameters=671_000_000,
        license="Apache-2.0",
        dim=1024,
        repo="timm/PE-Core-L-14-336",
        recall=57.1,
        cost=33,
        notes="the most accurate here for English; wants a GPU",
    ),
    CuratedModel(
        name="ViT-SO400M-16-SigLIP2-384/webli",
        role="gpu",
        parameters=1_136_000_000,
        license="Apache-2.0",
        dim=1152,
        repo="timm/ViT-SO400M-16-SigLIP2-384",
        languages=_MANY,
        recall=56.0,
        cost=45,
        notes="the most accurate here for other languages; wants a GPU",
    ),
    CuratedModel(
        name="xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
        role="multilingual",
        parameters=366_000_000,
        license="MIT",
        dim=512,
        repo="laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
        languages=_MANY,
        recall=37.8,
        cost=0.8,
        notes="for indexes that were made with it; the default knows as many languages",
    ),
    CuratedModel(
        name=READER,
        role="reader",
        parameters=638_000_000,
        license="MIT",
        dim=768,
        repo="laion/CoCa-ViT-L-14-laion2B-s13B-b90k",
        recall=45.7,
        cost=14,
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
