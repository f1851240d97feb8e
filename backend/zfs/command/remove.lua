-- Destroys the dataset of a layer with its snapshots, all in one transaction, unless something is in the way.
-- Run by "zfs program": argv is the dataset and the UUID of its store. Returns what is in the way by kind:
-- children and clones of others, snapshots that are held, the number of the error that the last step gave.
--
-- A clone that is a layer of the same store (Store.Clone, or a child that has lost its record) takes over the
-- snapshot that it is made of, which then goes with the last clone.

args = ...
fs, store = args["argv"][1], args["argv"][2]
result = { children = {}, clones = {}, held = {}, errno = 0 }
blocked = false

function parent(name)
    return (string.gsub(name, "/[^/]*$", ""))
end

-- owned tells a layer of this store. One whose making a power cut has interrupted has no properties yet: it is known by its
-- name, which is one that the store made up at random (store.newID).
function owned(name)
    local owner = zfs.get_prop(name, "strata:store")
    if owner ~= nil and owner ~= "" then
        return owner == store
    end
    local id = string.match(name, "[^/]*$")
    return #id == 16 and string.match(id, "^[a-z2-7]*$") ~= nil
end

function ours(clone)
    return parent(clone) == parent(fs) and owned(clone)
end

-- heirs lists the layers that are clones of a snapshot.
function heirs(snap)
    local list = {}
    for clone in zfs.list.clones(snap) do
        table.insert(list, clone)
    end
    return list
end

if not zfs.exists(fs) or not owned(fs) then
    return result -- there is nothing, or nothing of this store's
end
for child in zfs.list.children(fs) do
    result.children[child] = true
    blocked = true
end
for snap in zfs.list.snapshots(fs) do
    for tag in zfs.list.holds(snap) do
        result.held[snap] = tag
        blocked = true
    end
    for _, clone in ipairs(heirs(snap)) do
        if not ours(clone) then
            result.clones[clone] = true
            blocked = true
        end
    end
end
if blocked then
    return result
end

inherited = {}
for snap in zfs.list.snapshots(fs) do
    local heir = heirs(snap)[1]
    if heir == nil then
        result.errno = zfs.sync.destroy(snap)
    else
        table.insert(inherited, { snap = snap, heir = heir })
    end
    if result.errno ~= 0 then
        return result
    end
end
for _, i in ipairs(inherited) do
    if zfs.exists(i.snap) then -- else an earlier promotion took it along
        result.errno = zfs.sync.promote(i.heir)
        if result.errno ~= 0 then
            return result
        end
    end
end
for _, i in ipairs(inherited) do
    local name = string.match(i.snap, "@.*$")
    for _, other in ipairs(inherited) do
        if zfs.exists(other.heir .. name) then
            zfs.sync.destroy{other.heir .. name, defer = true}
        end
    end
end
result.errno = zfs.sync.destroy(fs)
return result
