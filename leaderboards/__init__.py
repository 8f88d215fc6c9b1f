"""The ground floor: run folders, statistics and tables. Free of torch, imports none of the other packages."""
