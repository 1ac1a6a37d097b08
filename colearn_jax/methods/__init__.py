"""Co-learning methods: what is built, computed and minimised."""
