"""The runner: suites of prompts, systems under test, and runs that generate and score images."""
