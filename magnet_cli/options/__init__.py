"""What a user may choose: options are parsed, checked and spelled back here."""
