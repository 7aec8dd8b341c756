#include "lib/kernels/ggml_codebook_tables.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace qp::kernels {
namespace {

constexpr int bits_of(int elements) { return elements == 8 ? 2 : 3; }
constexpr uint32_t levels_of(int elements) { return elements == 8 ? 3 : 8; }

// The code of the number `rank`, whose digits in the base of levels are the elements.
constexpr uint16_t code_of_rank(uint32_t rank, int elements) {
  uint32_t code = 0;
  for (int i = 0; i < elements; ++i, rank /= levels_of(elements)) {
    code |= rank % levels_of(elements) << (bits_of(elements) * i);
  }
  return static_cast<uint16_t>(code);
}

// A book is written as the distances of the ranks of successive points: a character c stands for
// c - '#', '~' for '~' - '#' without a point after it.
template <size_t kCount, int kElements>
constexpr std::array<uint16_t, kCount> points(std::string_view text) {
  std::array<uint16_t, kCount> codes{};
  uint32_t rank = 0;
  size_t count = 0;
  for (char c : text) {
    rank += static_cast<uint32_t>(c - '#');
    if (c != '~') codes[count++] = code_of_rank(rank, kElements);
  }
  if (count != kCount) throw "a book of another length";  // does not compile
  return codes;
}

// iq2_xxs.
constexpr auto kIq2Xxs = points<256, 8>(
    R"(#%%%%%%)%'%%%))'%)%)/+%)'1A//%5G=%)-%)%'/-%)/)%'/17%-;%5A5)'%)/'%)%9;;[-i%)-+5/)'1)/5+-S)"
    R"(-U)/'/7MCE1g%)5?='gQO%)93+%U+S%s%)51K?7~(;/S~FW%))'%))+'-%)55?+';+;+-A)/G39-_u%)5'UM'-[C)"
    R"(5)')%G);=Qis%;mIM-)C__q)5;AK[AG'y%Q~N~~C%)7??//ck%)'15GCE975Iu{m)/)Q9K]U7-{~|O~ZE9Am~(~~)"
    R"(uS)");

// iq2_xs.
constexpr auto kIq2Xs = points<512, 8>(
    R"(#%%%%%%%%%%%%'%%%%%%%'%)%%%'%'%-%%%%%%%%%%)%%%'%))'%)5%%%'%)-%)'1+7%%%%%%%'%)%%%'%%'-%)5)"
    R"(%%%'%)-%)-+?%)1'%?;%%%%%%)')%))/5+%%)5?)75)O'-%%%%%%%'%)%%%'%)+%%)5%%%'%)-%)5/%1%%'55G%%)"
    R"(%'%)-%'%/)?%)5Y/9S%)%3/79'QgM%%%%%%%)-%)55-%)5)3C7E;'%)3%Y?-C/3_')%-971]/;/I'%7%%%%%%%'%)"
    R"()%%%%%%)')%)5%%%'%)-%)5'3+%)%1%Y%%%'%'%-%)5/3%)/)O-+9)Q%)5'++E-7)3Cq%%%'%))'%)5?%)'1%WAU)"
    R"(%%)-+5-5+)S)KC9+/3+E?-%~6;%)5/+/7%~.1A31o5'O{WUcE+E%%%'%)+%%)5%9%%%%'5-)I5G%3)'%)%%1537A)"
    R"(Q7I?)39-%9+~(E)+-'%)513;7?m77'=))cI%O}KI_CG%'%-+QQ)E'%'7?5GK~X77-%'S))Y%Q%I3)");

// iq2_s.
constexpr auto kIq2S = points<1024, 8>(
    R"(#%%%%%%%%%%%%'%%%%%%%'%%%%%%%'%)''%%%%%%%%'%)%%%'%%%%'%'%)%%)%)%%%'%)+%%%%%'1'''++%%%%%%)"
    R"(%'%%%%%%%%%%%%%%%)%%%%'%'%)%%%%%%%%%'%'%%%%%%%'%)%%%'%)-%%%%'1'%'%)-%)5%%%'%%%%''%%%%%%%)"
    R"(%'%)'+1%%)%%%'+'%'%)-+5-%+'%-E/%%%%%%%'%%'%%%'%%%%%%%'%%''%'%)%%%%%%%%%%%%'%%%%%%%'%)%%%)"
    R"('%3%'%')%)')%3%)5%%%'%%%%'%'%%%%%%%'%)%%%'%)-%%%%%%%'%)%%%'%)-%)5'%'%)-%)5=%%%%%'%'+%%%')"
    R"(%)-%;%%%'%)-%)39-)51K%%%'%%%%''%%)%%+)+'1%%)%%)+%%)%)-%)5+/'%');%3'%%%%'%'%)%%%'%)-%)5'%)"
    R"('%)-%)1'?%)53I')%3%)=5%%)]9/?/%7%%%%%%%%%%%'%%%%%%%%%%%)%)'%'%)%%%'%%%%%%)%%%%%%%'%)%%%')"
    R"(%)-%)%%%))'%'%)-%;%%%%%%%%%%%%'%%%%%%%'%)%%%'%)-%%%%%%%'%)%%%'%)+%%)5%%%'%)-%)59)%'%%%%')"
    R"(%)%%%'%)/)5%%%'%)-%)511%)5Y%%%'%%%%%%%'%%%%%%%'%)%%%'%3%%%%%%%'%)%%%'%)-%)5'%'%)-%)3%?%%)"
    R"(%%%%%'%)%%%'%)-%)5%%%'%)-%)5?%)1'Y%%%'%)-%)+-?%)5Y3M7'%%'%%%'%)'%'%)/)5%%%'%)-%)531)51C+)"
    R"('%'%)-%)5?%)5+313e3%)K7/=wO+%%%'%'%')%)%%%'+')%3%'%%%%'%)%%%'%3%)3%''%%3%)Q%%%%%%%'+%%%')"
    R"(%)-%)5%%%'%)-%)5+7%)3%Y')%3%)I+%;9W9%/5+%'%%%%))%%%'%)-%)5')%3%)+I%)5U'%%%'%)-%)511%)5M')"
    R"(+C3E%)1'W%E'~25'''+)%%)I)?9E)/'%A'%3'%)5E1)3~.W3UQ7?%-%'G7)");

// iq3_xxs.
constexpr auto kIq3Xxs = points<256, 4>(
    R"(#%%(%'$%*,<%'%(%*'&%*./+%%(*%*%'-)1')$%.F67(./%')63V:7'%813%(%*%(%%.$;%**%R%(%**E)%1,03.)"
    R"('FK'56/p1C%*%(%'&,B%%&%**>'$+%*)$%0$07*'O'D1;7->h%.:?*%*%80()%1,.%>%(08325`26))/>B58K87.)"
    R"(1%/'p72$3)4ABH.D18p&%1U::+)3:B1C+L@.'F+:rO1U3%1@CAHG)iDHTK1U%%$53O-M>(9018D3B%5g)");

// iq3_s.
constexpr auto kIq3S = points<512, 4>(
    R"(#$$&%$$$%%%$')(%&%%%(%*&&$$$%'$'&&'%'*0'()$'%$&&&'&')&%%%0&+)'&%*%&)'%0%'&.'%&))&)2-%/%')"
    R"(()'%2(.&%142*%%/%'(0'7$$%'$%%%$%*&%1%&,)$%&%'(*&)*%1)%-&%$'))&-&-*&&$&))$'(4).%(%0%*'%'8)"
    R"(*&)*%2J'&0%>%(%*/'4)+$%%%$%%%&%'$%*%%&%0$&%&%)&'&&'&)*;&&-%(*%-'-&'%&',%(%*)1.),&*&'<&*()"
    R"(,0$.0+%(-?'7'0%.(=*%%%&*%%(%&%-)+%%*(%03-'%-)-%/<*'(%'$,%')1+)('*4)'0*%.(--066C%0%.F'))')"
    R"(&&**3-(%%*)())'7%(('-(2&)/(%(%*'F%5.$</%-D<47;(..)<)')1'&&/)(%%(*,C),-()0:($20(/))&/-/G/)"
    R"(6%ZC%1Z%%/%833*@95).()+/(2X121&<78>L%X'&,%/%/)3*.2%?&')&*4<;&19')(;M3C:J)");

// iq1_s, iq1_m.
constexpr auto kIq1 = points<2048, 8>(
    R"(#%%%%%&(%'%()%%+(%'%((%'%'$)%%%$()'%'%'%%%$*)%%+(%'%((%'%())('%%'%%&&%%'%.%%+)))''$2)))%)"
    R"($$+%%+%''$$%$$%%%%%%%,&%%%%$$%1'/%)%%%&$'%))%'.%'%((%'%()'+(%'%((%'%()%'($)+$&)%'/%%%)(%)"
    R"('%((%'%())&&(%%%%((%'%-$%'($)%)'%'%$&/%%(&)%%%%%%%'%')'$$$$$$%%'++%)%3%%+((%'%%%'%+)%%+))"
    R"('%($%$&'(&$$%%%$$%'%%)'%&$%$$%%$&'%'%%$$%%%%%%%%$$($$$$%$%%$$%%%$$%%$$%$$%$$%%)%$$+$$%%')"
    R"('%$$%%%&$$$&%$%$$)&&%+'/'+)%%%%'%%$$%%%))%-1%%'%&*$$%'%$$%$$''+&$%%''%,**%*%%%%%%''%))'&)"
    R"(-%'%((%%%%())&&(%'%((%%%%()%')*$')%%%%$$+((%))(%%&(%'%()'%))(%%&(%'%(+%%)+$$%'%%%)+)%'&&)"
    R"(/)))%'%'%$&'%%-%&$%%%%%%)(%())))($)(%'+-%'%((%'%()%-(%'%-%'%+&%')-%'%)%%%)((%($(%'%-%'%()"
    R"()'%)(%'%((%'%()'+/'%%%%%%3'&''$%%%'%$$%%'%)%%%%$$%$(%%%%%'%%($$.)%%+)-%''',(-)/&,)%%%%$$)"
    R"(($%%%%'%%%%($)&$%'%%$$%%''%%$$%%$%$$$$&%$$%'$$%'%$$%$(%%%&&($%%%%'%%%%&$$%$%'%%'&''$)%%+)"
    R"()&'(*(%'%'%%%))%%%))&$&$&$%'%%'''%$$$$%%%%$&)%'%$$'%%%33%%)%%''1-)%$$%'%'%%'%'%'%$$%)%+%)"
    R"()%&$'%)%$$%%$$$$%'$$%%%$$%%$$$$$$$$%%$$%'%)%$$%%''%')%'%%+%'%%$$%'%,(%%&$',$)%$$$$&&%%%%)"
    R"($$%$$$%$$$$$%$$$$%%)%%%$$%&%$'%$$$$%%$$$$$%$%%$$%%$$$$$$$%$$$$$$$$$$%$$$$$%%$&$$$%$$$$&%)"
    R"($$%%$$$%$$&%$%$%$$$$$$$&&$$$$$$$$$$$$$%%$&'%$$$$%&'&%$$$($$%%'%'*(%%%%$$$$%%$$*(%%%%')&$)"
    R"(%'%%$$%))%$$%%$$$$$$$$%%$$%&&&&%$$$$)+&*'$'$%)%$&&$$$'%%%%*&%$$%%/+%%)+)'$$%%%%%&0+)%%%')"
    R"(%)$&%)&&&$%)$&'(&%)'%/'%.$'+$$&0)'+2$%$&%'%%%%%%%%$$%$$%%+$&%%$$$$%%%')%%%&$%1$$%%$%$$%&)"
    R"(%$$%*%$%&$%$&%$$(()(($$%'%%%%$$$%$'%&%%''%$$%&%&2%))-%'%)))(+(%)')%%%%$&$$'%$$%%''&$(()%)"
    R"($&/'$0%'%'%%'$&**&%)'%'%-%'%(($%%%)(%'%((%'%()%%%))%'%%%$$$(%%)&(%%)(%'%((%'%.%')(%'%((%)"
    R"('%0'/%*&'%%'1'/)'%')%%$&%'%$$%$($$%%%%%%%%%+1'%))%'$$'&$%'&()*')%'%((%'%%&)%')&%%'%((%'%)"
    R"(($(%%+)%%%%%%'%%--%)(%'%((%'%()%%0%'%((%'%()'$$))'%)%%+$()%%%))%%%%'%%%%%%%'($%$$%'%+%)%)"
    R"(%'%%%))%')+%%%%%%+%)+%.&%%''%+'+%%$$$$%$$%+%)$$%')%'%%$$%$$%&&&$%%$$%%$$$$$$$$%%$$%&&%'$)"
    R"($$$%$$%%%%%%)'&%(%)%$&$%$%)%($'$&$$+%%)-%))''%%$&'$,)'%)+%%%%%%%$$%%'%%%%%%$$%'%$&%%)%%')"
    R"(%'+,,+%%%'%'/)%$$0%'%((%'%()%%%.%'%((%'%(&&%%%$2%&&%%%%-(%&%0'%$*''%()'%)(%'%((%'%4))%)&)"
    R"($%%%&$$$)?%%%%%+%'%)%$$%)'%%$$%'%%3)'&%&+%&&%$$&%/''$%&%%'%'%-%'%.%%%.%'%((%'%(+'&&)+''%)"
    R"('%.(0%'%-%'%.%%0%'%((%'%)");

// The lists of a book, kTotal entries together, which follows from its points (a list
// that does not fit is a mistake in kTotal).
template <int kElements, size_t kTotal>
struct Room {
  uint32_t cells[size_t{1} << (kElements * bits_of(kElements))];
  uint16_t neighbours[kTotal + 16];
};

// For every code off the book, the points at the `kShells` smallest distances from it.
template <int kElements, int kShells, size_t kCount, size_t kTotal>
class Lists {
 public:
  using Points = std::array<uint16_t, kCount>;

  static void make(const Points& book, Room<kElements, kTotal>& room) {
    Lists lists(book, room);
    for (size_t i = 0; i < kCount; ++i) {
      room.cells[book[i]] = Codebook::kOnBook | static_cast<uint32_t>(i);
    }
    uint32_t end = 1;
    for (int e = 0; e < kElements; ++e) end *= kLevels;
    for (uint32_t rank = 0; rank < end; ++rank) {
      uint32_t code = code_of_rank(rank, kElements);
      if ((room.cells[code] & Codebook::kOnBook) == 0) lists.add(code);
    }
  }

 private:
  static constexpr int kBits = bits_of(kElements);
  static constexpr uint32_t kLevels = levels_of(kElements);

  Lists(const Points& book, Room<kElements, kTotal>& room) : book_(book), room_(room) {
    for (int e = 0; e < kElements; ++e) {
      for (uint32_t level = 0; level < kLevels; ++level) {
        for (size_t i = 0; i < kCount; ++i) {
          int own = book[i] >> (kBits * e) & ((1 << kBits) - 1), d = own - static_cast<int>(level);
          squares_[e][level][i] = static_cast<uint8_t>(d * d);
        }
      }
    }
  }

  void add(uint32_t code) {
    uint8_t distance[kCount] = {};  // squared, at most 4 * 7^2
    for (int e = 0; e < kElements; ++e) {
      const uint8_t* squares = squares_[e][code >> (kBits * e) & ((1u << kBits) - 1)];
      for (size_t i = 0; i < kCount; ++i)
        distance[i] = static_cast<uint8_t>(distance[i] + squares[i]);
    }
    size_t first = total_;
    uint8_t shell = 0;
    for (int n = 0; n < kShells; ++n) {
      uint8_t next = 255;
      for (size_t i = 0; i < kCount; ++i) {
        uint8_t d = distance[i] > shell ? distance[i] : uint8_t{255};
        next = d < next ? d : next;
      }
      shell = next;
      for (size_t i = 0; i < kCount; ++i) {
        if (distance[i] == shell) room_.neighbours[total_++] = book_[i];
      }
    }
    while ((total_ - first) % Codebook::kStep != 0) {
      room_.neighbours[total_] = room_.neighbours[total_ - 1];
      ++total_;
    }
    room_.cells[code] = static_cast<uint32_t>(first << Codebook::kCountBits | (total_ - first));
  }

  const Points& book_;
  Room<kElements, kTotal>& room_;
  size_t total_ = 0;
  uint8_t squares_[size_t{kElements}][kLevels][kCount];
};

template <int kElements, int kShells, size_t kTotal, size_t kCount>
const Codebook& made(const std::array<uint16_t, kCount>& book) {
  static Room<kElements, kTotal> room;
  static const Codebook codebook = [&] {
    Lists<kElements, kShells, kCount, kTotal>::make(book, room);
    return Codebook{kElements, book, room.cells, room.neighbours};
  }();
  return codebook;
}

}  // namespace

std::span<const uint16_t> book_points(Book book) {
  switch (book) {
    case Book::iq2_xxs: return kIq2Xxs;
    case Book::iq2_xs: return kIq2Xs;
    case Book::iq2_s: return kIq2S;
    case Book::iq3_xxs: return kIq3Xxs;
    case Book::iq3_s: return kIq3S;
    case Book::iq1: break;
  }
  return kIq1;
}

const Codebook& codebook(Book book) {
  switch (book) {
    case Book::iq2_xxs: return made<8, 2, 122668>(kIq2Xxs);
    case Book::iq2_xs: return made<8, 2, 190728>(kIq2Xs);
    case Book::iq2_s: return made<8, 1, 54364>(kIq2S);
    case Book::iq3_xxs: return made<4, 2, 24152>(kIq3Xxs);
    case Book::iq3_s: return made<4, 3, 29708>(kIq3S);
    case Book::iq1: break;
  }
  return made<8, 3, 334460>(kIq1);
}

}  // namespace qp::kernels
