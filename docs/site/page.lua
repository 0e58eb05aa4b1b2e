-- Makes a page of the site of a page of docs/: its links, its place in the navigation, links into the reference.
-- Metadata: `page`, its path below docs/, `pages`, those of all pages, and `names`, a file of the names that the
-- reference describes, each with its address. A link that leads nowhere is an error.

local page, pages

local function read(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

--- "a/../b" as "b".
local function normal(path)
  local parts = {}
  for part in path:gmatch("[^/]+") do
    if part == ".." and #parts > 0 and parts[#parts] ~= ".." then
      table.remove(parts)
    elseif part ~= "." then
      table.insert(parts, part)
    end
  end
  return table.concat(parts, "/")
end

local function folder_of(path) return path:match("^(.*/)") or "" end
local function to_root() return (folder_of(page):gsub("[^/]+", "..")) end

-- Where a name of the library is described.
local addresses = {}

--- The address of what a piece of code names, "conv(x, w)" or "fixed_point::solve"; none where it names nothing.
local function described(code)
  local name = code:gsub("^settle::", ""):gsub("^fp::", "fixed_point::")
  name = name:gsub("%s*[%(%{<].*$", "")
  if not name:match("^[%a_][%w_:]*$") or #name < 3 then return nil end
  return addresses[name] or addresses["fixed_point::" .. name] or addresses["transforms::" .. name]
end

local function is_outside(target) return target:match("^%a+:") ~= nil end

local function link_of(link)
  local target = link.target
  if is_outside(target) or target:match("^#") then return link end
  local path, anchor = target:match("^([^#]*)(#?.*)$")
  local whole = normal(folder_of(page) .. path)
  if not io.open(whole) then error(page .. ": there is no " .. target) end
  if whole:match("^%.%.") then return pandoc.Code(pandoc.utils.stringify(link.content)) end  -- not part of the site
  link.target = path:gsub("%.md$", ".html") .. anchor
  return link
end

--- The list of all pages: index.md's headings and the first link of each item; then those that it does not name.
local function navigation()
  local groups, named = {}, {["index.md"] = true}
  for _, block in ipairs(pandoc.read(read("index.md"), "gfm").blocks) do
    if block.t == "Header" and block.level == 2 then
      table.insert(groups, {title = pandoc.utils.stringify(block), entries = {}})
    elseif block.t == "BulletList" and #groups > 0 then
      for _, item in ipairs(block.content) do
        local first = true
        pandoc.walk_block(pandoc.Div(item), {
          Link = function(link)
            local path = link.target:gsub("#.*$", "")
            named[path] = true
            if first then table.insert(groups[#groups].entries, {pandoc.utils.stringify(link.content), link.target}) end
            first = false
          end,
        })
      end
    end
  end
  local more = {title = "More", entries = {}}
  for name in pages:gmatch("%S+") do
    if not named[name] then table.insert(more.entries, {read(name):match("^# ([^\n]*)") or name, name}) end
  end
  if #more.entries > 0 then table.insert(groups, more) end
  local root, out = to_root(), {}
  for _, group in ipairs(groups) do
    table.insert(out, "<h2>" .. group.title .. "</h2><ul>")
    for _, entry in ipairs(group.entries) do
      local target = entry[2]:gsub("%.md", ".html")
      local here = entry[2]:gsub("#.*$", "") == page and ' aria-current="page"' or ""
      table.insert(out, '<li><a href="' .. root .. target .. '"' .. here .. ">" .. entry[1] .. "</a></li>")
    end
    if group.title == "Look up" then
      table.insert(out, '<li><a href="' .. root .. 'reference/index.html">Reference of the headers</a></li>')
    end
    table.insert(out, "</ul>")
  end
  return table.concat(out, "\n")
end

return {
  {Meta = function(meta)
    local text = pandoc.utils.stringify
    page, pages = text(meta.page), text(meta.pages)
    for name, address in (read(text(meta.names)) or ""):gmatch("(%S+) (%S+)\n") do
      addresses[name] = addresses[name] or address
    end
    meta.navigation = pandoc.RawInline("html", navigation())
    return meta
  end},
  {
    Link = function(link) return link_of(link), false end,
    Code = function(code)
      local address = described(code.text)
      if address then
        return pandoc.Link({code}, to_root() .. "reference/" .. address, "", {class = "name"}), false
      end
    end,
    traverse = "topdown",  -- so that the code within a link is left alone
  },
  {Table = function(table) return pandoc.Div({table}, {class = "table"}) end},
  {Pandoc = function(document)
    local first = document.blocks[1]
    if first and first.t == "Header" and first.level == 1 then
      document.meta.pagetitle = pandoc.utils.stringify(first)
    end
    return document
  end},
}
