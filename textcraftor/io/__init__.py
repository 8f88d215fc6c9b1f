"""Files that training reads and writes: checkpoints, exports, system files."""
