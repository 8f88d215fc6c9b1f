"""Several rewards together: panels, weighted sums, calibration, adapters for other training loops."""
