"""What every run has: its clock, and what guards its results and its memory."""
