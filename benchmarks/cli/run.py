"""`tcbench run`: generate images with a model and score them."""

from __future__ import annotations

from pathlib import Path

import typer

from benchmarks.cli import options

app = typer.Typer(add_completion=False)


@app.command()
def _run(
    model: options.Model,
    suite: options.Suite = None,
    rewards: options.Rewards = None,
    prompts: options.Prompts = None,
    limit: options.Limit = None,
    seeds: options.Seeds = 1,
    base_seed: options.BaseSeed = 0,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    tuned_steps: options.TunedSteps = None,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    out: options.Out = Path("runs"),
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Generate images with a model and score them.

    Prompts, pipeline and the weights of every reward are checked before the first image is generated. Re-run
    the command to resume an interrupted run; with other rewards it scores the existing images.
    """
    from benchmarks.cli import report
    from benchmarks.cli.progress import show_progress
    from benchmarks.execution import execute_plan, prepare_run
    from benchmarks.planning import Request, plan_run

    request = Request(
        model=model,
        suite=suite,
        rewards=options.names(rewards),
        prompts=prompts,
        limit=limit,
        seeds=seeds,
        base_seed=base_seed,
        steps=steps,
        guidance=guidance,
        tuned_steps=tuned_steps,
        batch_size=options.batch_size(batch_size),
        device=device,
        dtype=dtype,
        out=out,
    )
    plan = plan_run(request, fetch=not dry_run)
    if dry_run:
        prepare_run(plan)
        report.show_plan(plan, json)
        return
    with show_progress() as progress:
        result = execute_plan(plan, progress)
    raise typer.Exit(report.show_result(result, json))
