#!/bin/sh
# build.sh PANDOC DOXYGEN SOURCE OUTPUT VERSION: the pages of docs/ and the reference of the headers as a site.
set -eu
pandoc=$1 doxygen=$2 source=$3 output=$4
export SETTLE_VERSION=$5
here=$source/docs/site

rm -rf "$output"
mkdir -p "$output/reference"
cp "$here/style.css" "$output"

# The reference first: the pages link to what they name of it.
{
  cat "$here/Doxyfile"
  echo "PROJECT_NUMBER = $SETTLE_VERSION"
  echo "INPUT = \"$source/include/settle\" \"$here/namespaces.dox\" \"$here/reference.md\""
  echo "USE_MDFILE_AS_MAINPAGE = \"$here/reference.md\""
  echo "STRIP_FROM_PATH = \"$source/include\""
  echo "STRIP_FROM_INC_PATH = \"$source/include\""
  echo "HTML_HEADER = \"$here/reference_header.html\""
  echo "HTML_FOOTER = \"$here/reference_footer.html\""
  echo "HTML_EXTRA_STYLESHEET = \"$here/reference.css\""
  echo "OUTPUT_DIRECTORY = \"$output\""
  echo "GENERATE_TAGFILE = \"$output/reference.tags\""
} | "$doxygen" -
# The names of the reference with their addresses: what stands in a namespace of settle.
awk -F'[<>]' '
  /<compound kind/ { kind = $2; scope = ""; member = "" }
  /<member kind/ { member = $2 }
  /<\/member>/ { member = "" }
  $2 == "name" && member == "" { scope = $3 }
  $2 == "filename" && kind ~ /class|struct/ && scope ~ /^settle::/ && scope !~ /detail|&lt;/ { print scope, $3 }
  member != "" && $2 == "name" { name = $3 }
  member != "" && $2 == "anchorfile" { file = $3 }
  member != "" && $2 == "anchor" && kind ~ /namespace/ && scope ~ /^settle/ && scope !~ /detail/ {
    print scope "::" name, file "#" $3
  }' "$output/reference.tags" | sed 's/^settle:://' > "$output/names"

cd "$source/docs"
pages=$(find . -name '*.md' ! -path './site/*' ! -name table.md | sed 's|^\./||' | sort)
for page in $pages; do
  to=$output/${page%.md}.html
  mkdir -p "$(dirname "$to")"
  root=$(dirname "$page" | sed -e 's|^\.$||' -e 's|[^/][^/]*|..|g' -e 's|$|/|' -e 's|^/$||')
  "$pandoc" --from gfm --to html5 --standalone --toc --toc-depth 2 --highlight-style kate --template "$here/page.html" \
    --lua-filter "$here/page.lua" --metadata page="$page" --metadata pages="$(echo $pages)" \
    --metadata names="$output/names" \
    --variable root="$root" --variable version="$SETTLE_VERSION" --output "$to" "$page"
done
find . -path ./site -prune -o \( -name '*.png' -o -name '*.svg' -o -name '*.gif' -o -name '*.json' \) -exec cp --parents {} "$output" \;
rm "$output/reference.tags" "$output/names"
echo "The documentation is in $output/index.html"
