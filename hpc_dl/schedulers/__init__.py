"""What runs jobs: one folder per scheduler."""
