#!/usr/bin/env bash
# The README's picture of the stepper: gradexplain and chromium on the path.
set -e
page="$(mktemp -d)/page.html"
gradexplain run "s = x.sum(dim=0); x / s" --at "x=[[2,1],[3,3],[5,5]]" \
    --grad "[[1,0],[0,2],[0.5,-1]]" --format html -o "$page"
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=900,860 \
    --screenshot=samples/stepper.png "file://$page#step=4"
