"""Complete methods from papers, built on the other wings; no other wing imports them.

A method comes in here if it has

1. a paper that describes it, named in the docstring;
2. a test against something independent: numbers of the paper, its authors' code, or a computation by hand;
3. a page in docs/ that says when it helps, and what was measured;
4. a program in sample_apps/ that runs it on real data.

Rooms do not know each other: what two of them share goes down into another wing.
"""
