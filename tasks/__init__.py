"""Tasks: problems, a reward, and a check that gold answers score 1.0. One file each."""
