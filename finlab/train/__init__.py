"""Training with TRL: packed rows, preflight, a log on disk, resume, many processes."""
