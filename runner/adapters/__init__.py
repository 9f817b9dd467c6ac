"""The outside world: the Gemini client and storage."""
