"""Small frozen rules: who is calling, may they, how often. Pure where they can be; what must ask the world says so (`verdict.Ask`)."""
