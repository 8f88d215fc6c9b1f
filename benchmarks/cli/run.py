"""`tcbench run`: the main job."""

from __future__ import annotations

from pathlib import Path

import typer

from benchmarks.cli import options


def run(
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

    Prompts, pipeline and every reward's weights are checked before any image is drawn. Running the same
    command again continues an interrupted run; another reward scores the images that are there.
    """
    from benchmarks.cli import report
    from benchmarks.cli.progress import progress
    from benchmarks.run import Request, execute, plan

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
        switch_step=tuned_steps,
        batch_size=options.batch_size(batch_size),
        device=device,
        dtype=dtype,
        out=out,
    )
    planned = plan(request, fetch=not dry_run)
    if dry_run:
        report.show_plan(planned, json)
        return
    with progress() as shown:
        outcome = execute(planned, shown)
    raise typer.Exit(
        report.show_outcome(outcome, json, next_command=report.leaderboard_command(outcome.path))
    )
