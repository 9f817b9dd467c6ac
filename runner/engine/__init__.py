"""Time and concurrency on anyio. No SQL, no HTTP."""
