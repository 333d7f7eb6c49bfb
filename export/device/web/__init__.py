"""Run files in a browser: write a folder that any web server shows, and read what its page measured.

The page is in `page/`: `worker.js` runs the models with LiteRT.js, `runtime.js` makes its calls promises, and
`page.js` checks and measures. npm brings LiteRT.js; nothing of it is in this package. `recorded_runs` runs samples
here, so that the page has outputs to compare with. `web_result` reads what a page measured.
"""
