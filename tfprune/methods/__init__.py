"""Complete methods from papers, built on the other folders; no other folder imports them.

A method comes in here if it has

1. a paper that describes it, named in the docstring;
2. a test against something independent: numbers of the paper, its authors' code, or a computation by hand;
3. a page in docs/ that says when it helps, and what was measured;
4. a program in sample_apps/ that runs it on real data, and that imports the door of the method only.

Methods do not know each other: what two of them share is moved to another folder.
"""
