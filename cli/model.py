"""`mmsearch models`, `models pull` and `models use`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.layout import PlainCommand
from cli.options import complete_model
from cli.terminal import byte_count, interruptible, shown, write_lines
from retrieval.models.catalog import CURATED

app = typer.Typer(
    invoke_without_command=True,
    help="The models to choose from; `models pull NAME` fetches one, `models use NAME` makes one the default.",
)


@app.callback()
def models_command(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a model.")] = False
) -> None:
    """List a curated set of models: role, size, licence, and whether each is cached here."""
    if context.invoked_subcommand is not None:
        return
    from retrieval.models.weights import is_cached
    from retrieval.settings import chosen_model, config_file

    if as_json:
        write_lines(
            {
                "name": model.name,
                "role": model.role,
                "parameters": model.parameters,
                "license": model.license,
                "cached": is_cached(model.name),
                "dim": model.dim,
                "notes": model.notes,
                "languages": model.languages,
                "recall": model.recall,
                "cost": model.cost,
            }
            for model in CURATED
        )
        return
    width = max(len(model.name) for model in CURATED)
    print(f"{'':<{width}}  {'':<6}  download  time a photo  finds  languages  licence")
    for model in CURATED:
        here = "here" if is_cached(model.name) else ""
        size = byte_count(model.download) if model.download else "none"
        time = f"{model.cost:g}×" if model.cost is not None else ""
        finds = f"{model.recall:.0f} %" if model.recall is not None else ""
        print(
            f"{model.name:<{width}}  {here:<6}  {size:>8}  {time:>12}  {finds:>5}  {model.languages:<9}  {model.license}"
        )
        print(f"    {model.role}: {model.notes}")
    print(
        "\nfinds: for how many of 100 descriptions the right one of 5,000 photos (COCO) comes first, as published\n"
        "time a photo: the work of indexing one, against the default's; a query takes about as long with any of them\n"
        "download: about four bytes a parameter, once; a language that a model does not know finds little with it"
    )
    chosen = chosen_model()
    if chosen is not None:
        print(f"new indexes are made by {chosen}, as {shown(str(config_file()))} says")
    print("any other open_clip model works, too: ARCH/TAG, ARCH@FILE, hf-hub:ORG/REPO, local-dir:DIR")


@app.command("pull", cls=PlainCommand)
def pull_command(
    name: Annotated[str, typer.Argument(help="ARCH/TAG or hf-hub:ORG/REPO.", autocompletion=complete_model)],
) -> None:
    """Fetch a model's weights into the cache; run it again to resume."""
    from retrieval.models.weights import download

    with interruptible():
        print(shown(str(download(name))))


@app.command("use", cls=PlainCommand)
def use_command(
    name: Annotated[
        str,
        typer.Argument(
            help="A model that is here; auto takes the choice back.", show_default=False, autocompletion=complete_model
        ),
    ],
) -> None:
    """Make a model the default for new indexes of this user: what `--model auto` means. Indexes that are there keep theirs."""
    from retrieval.models.weights import resolve
    from retrieval.settings import choose_model

    if name == "auto":
        file = choose_model(None)
        print(f"new indexes are made by the best model that is here; noted in {shown(str(file))}")
        return
    chosen = resolve(name).name
    file = choose_model(chosen)
    print(f"new indexes are made by {chosen}; noted in {shown(str(file))}")
    print(f"an index that is there changes with: mmsearch index FOLDER --model {chosen}")
