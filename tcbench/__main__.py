"""``python -m tcbench`` is the command `tcbench`."""

from tcbench.launch import main

if __name__ == "__main__":
    main()
