"""What runs inside the sandbox. Its text is handed to a bare Python there: nothing of this project can be imported."""
